import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from models.class_path import refuse_functions
from models.classifier import Classifier
from scripts.data_command import build_data
from tests.conftest import Run

FETCH = "{class_path: torch.hub.load, init_args: {repo_or_dir: %s, source: local, model: network}}"


@pytest.mark.parametrize("value", [math.sqrt, partial(print, 1), [1].append, {"class_path": "torch.hub.load"}])
def test_refuses_functions_anywhere(value: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"A file names .* as network\.layers\.1, which is a function"):
        refuse_functions({"network": {"layers": [1, value]}}, "A file")


def test_takes_classes_and_values() -> None:
    refuse_functions({"a": {"class_path": "torch.nn.ReLU"}, "b": [1, "torch.hub.load", None], "c": torch.nn.ReLU}, "")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What `torch.hub.load` would run."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "hubconf.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    return folder


@pytest.mark.parametrize(
    "setting",
    [
        "model: {optimizer: %s}",
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.LambdaCallback, "
        "init_args: {on_fit_start: torch.hub.load}}]}",
        "data: {init_args: {augmentation: [{class_path: kornia.contrib.Lambda, init_args: {func: torch.hub.load}}]}}",
    ],
)
def test_a_configuration_runs_no_function(
    refused: Callable[..., str], tmp_path: Path, repository: Path, setting: str
) -> None:
    (tmp_path / "a.yaml").write_text(setting.replace("%s", FETCH % repository))
    sentence = refused("fit", "--config", tmp_path / "a.yaml", "--runs", tmp_path / "runs")
    assert "which is a function" in sentence
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "runs").exists()


def test_nor_does_one_about_data_alone(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "data: {init_args: {augmentation: [{class_path: kornia.contrib.Lambda, init_args: {func: torch.hub.load}}]}}"
    )
    with pytest.raises(MisconfigurationException, match="which is a function"):
        build_data(["--config", str(tmp_path / "a.yaml")])


def test_nor_does_a_checkpoint(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path, repository: Path
) -> None:
    checkpoint = train("--trainer.max_epochs=1", "--trainer.limit_train_batches=1").checkpoint
    hub = {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": str(repository), "source": "local"}}
    checkpoint["hyper_parameters"]["optimizer"] = hub
    checkpoint["config"]["model"]["optimizer"] = hub
    torch.save(checkpoint, tmp_path / "strange.ckpt")
    with pytest.raises(MisconfigurationException, match=r"strange\.ckpt names torch\.hub\.load as optimizer"):
        Classifier.load_from_checkpoint(tmp_path / "strange.ckpt")
    assert "torch.hub.load" in refused("test", "--ckpt_path", tmp_path / "strange.ckpt")
    assert not (tmp_path / "ran").exists()
    checkpoint["hyper_parameters"]["network"] = {"class_path": "fractions.Fraction", "init_args": {}}
    torch.save(checkpoint, tmp_path / "strange.ckpt")
    with pytest.raises(Exception, match=r"fractions\.Fraction does not correspond to a subclass of Module"):
        Classifier.load_from_checkpoint(tmp_path / "strange.ckpt")
