from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from core.user_error import UserError
from models.serialization.checkpoint import read_checkpoint, write_checkpoint
from scripts.train import main
from scripts.training.from_checkpoint import check_trainable, skip_initial_weights
from tests.conftest import Run


@pytest.mark.slow
def test_training_starts_from_a_checkpoint_with_optimizer_state_alone(
    train: Callable[..., Run], tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=1")
    check_trainable(run.last)
    weights = {name: value for name, value in read_checkpoint(run.last).items() if name != "optimizer_states"}
    write_checkpoint(weights, tmp_path / "weights.ckpt")
    with pytest.raises(UserError, match=r"weights\.ckpt is a weights-only checkpoint; give a run's last\.ckpt"):
        check_trainable(tmp_path / "weights.ckpt")


def network_config(checkpoint: Path, weights: str | None) -> Namespace:
    network = Namespace(class_path="models.torchvision_model.TorchvisionModel")  # type: ignore[no-untyped-call]
    network.init_args = Namespace(weights=weights)  # type: ignore[no-untyped-call]
    model = Namespace(network=network)  # type: ignore[no-untyped-call]
    return Namespace(ckpt_path=checkpoint, model=model)  # type: ignore[no-untyped-call]


def test_the_weights_of_the_checkpoint_replace_pretrained_ones(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    saved = {"model": {"network": {"init_args": {"weights": "DEFAULT"}}}}
    content = {"state_dict": {"network.x": torch.zeros(1)}, "class_names": [], "preprocessing": {}, "config": saved}
    write_checkpoint(content, file)
    for weights in ("DEFAULT", None):
        config = network_config(file, weights)
        skip_initial_weights(config, is_training=True)
        assert config.model.network.init_args.weights is None
    with pytest.raises(UserError, match=r"weights is OTHER, but the weights are those of .*; leave it out, or begin"):
        skip_initial_weights(network_config(file, "OTHER"), is_training=True)
    skip_initial_weights(network_config(file, "OTHER"), is_training=False)


@pytest.mark.slow
def test_other_images_are_noted(train: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--trainer.max_epochs=1", "--data.limit=300")
    capsys.readouterr()
    main(["test", "--ckpt_path", str(run.best)])
    assert "note: " not in capsys.readouterr().out
    main(["test", "--ckpt_path", str(run.best), "--data.split_seed=7"])
    assert capsys.readouterr().out.count("note: ") == 1
