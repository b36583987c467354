from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins.hparams import metadata

from tests.callbacks.tensorboard.test_preview import events
from tests.callbacks.test_curves import points
from tests.conftest import Run

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")


def settings(folder: Path) -> dict[str, Any]:
    """What TensorBoard knows of a run."""
    contents = {tag: found.plugin_data.content for tag, found in events(folder).summary_metadata.items()}
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    return {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in start.hparams.items()}


def test_a_run_has_the_settings_that_decide_what_is_learnt(train: Callable[..., Run]) -> None:
    affine = "[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 10.0}}]"
    run = train(
        *(*SHORT, "--seed_everything=7", "--model.optimizer.lr=0.01", "--model.optimizer.weight_decay=0.5"),
        *("--data.augmentation", affine, "--data.balanced=true", "--weight_average=callbacks.ema.EMA"),
    )
    found = settings(run.folder)
    expected = {
        "seed_everything": 7,
        "data": "Digits",
        "data.batch_size": 64,
        "data.augmentation": "RandomAffine(degrees=10.0, p=0.5)",
        "data.balanced": "true",
        "model.network": "ConvNet",
        "model.optimizer": "AdamW",
        "model.optimizer.lr": 0.01,
        "model.optimizer.weight_decay": 0.5,
        "model.scheduler": "WarmupCosine",
        "model.loss": "CrossEntropy",
        "trainer.max_epochs": 1,
        "trainer.precision": "32-true",
        "weight_average": "EMA",
        "weight_average.decay": 0.999,
        "early_stopping": "EarlyStopping",
    }
    assert expected.items() <= found.items()
    assert not [name for name, value in found.items() if "/" in str(value)], "no paths"
    assert not {name for name in found if name.startswith("trainer.enable") or name.endswith("root")}
    assert not (run.folder / "hparams.yaml").exists()


@pytest.mark.slow
def test_the_best_figure_is_a_point(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=2")
    ((step, value),) = points(run.folder)["best/val/accuracy"]
    assert step == run.results["steps"]
    assert abs(value - run.results["best"]) < 1e-6


@pytest.mark.slow
def test_a_run_taken_up_has_one_session_with_the_settings_it_goes_on_with(
    train: Callable[..., Run], resume: Callable[..., Run]
) -> None:
    run = resume(train("--trainer.max_epochs=1", "--early_stopping=null"), "--trainer.max_epochs=2")
    found = settings(run.folder)
    assert found["trainer.max_epochs"] == 2
    counted = events(run.folder).Tags()["images"]
    assert {tag: [one.step for one in events(run.folder).Images(tag)] for tag in counted} == {
        "preview/train": [0],
        "filters/stages.0": [0, 42],
        "confusion_matrix/val": [42],
        "confusion_matrix/test": [42],
        "worst_mistakes/test": [42],
    }
