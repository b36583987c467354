from collections.abc import Callable

import yaml

from callbacks.tensorboard.run_settings import run_settings
from tests.conftest import Run

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")


def test_a_configuration_has_settings_of_classes_numbers_and_changes(train: Callable[..., Run]) -> None:
    config = yaml.safe_load((train(*SHORT).folder / "config.yaml").read_text())
    config["data"]["init_args"] |= {"on_corrupt": "skip", "storage": None, "num_workers": 0}
    config["model"] |= {"freeze": ["backbone"], "unfreeze": {5: ["backbone"]}, "class_weights": "balanced"}
    found = run_settings(config, "bf16-mixed", 2)
    assert found["processes"] == 2
    assert found["data.on_corrupt"] == "skip"
    assert found["model.freeze"] == "backbone"
    assert found["model.unfreeze"] == '{"5": ["backbone"]}'
    assert found["model.class_weights"] == "balanced"
    assert found["early_stopping.patience"] == 10
    assert not {"data.normalization", "data.split_rule", "early_stopping.monitor"} & found.keys()
    config["model"]["network"]["init_args"] |= {"padding": False, "pooled_stages": [], "batch_norm": None}
    off = {"model.network.padding": "false", "model.network.pooled_stages": "[]", "model.network.batch_norm": "null"}
    assert run_settings(config, "bf16-mixed", 2) == found | off
    assert all(isinstance(value, str | int | float) for value in found.values())
