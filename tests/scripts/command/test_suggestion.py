from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.command.suggestion import suggest_class

MEANT = {
    "--model.network=ConvNit": "model.network names ConvNit, and there is no such class; did you mean models.convnet.",
    "--model.network=models.convnett.ConvNet": "did you mean models.convnet.ConvNet?",
    "--model.optimizer=torch.optim.Sgd": "did you mean torch.optim.SGD?",
    "--model.scheduler=OneCycle": "did you mean torch.optim.lr_scheduler.OneCycleLR?",
    "--weight_average=EMAs": "did you mean callbacks.ema.EMA?",
    "--data=nothing.like.MNIST": "there is no such class; did you mean datamodules.mnist.MNIST?",
    "--model.network=Foo": "model.network names Foo, and there is no such class; give its module and its name",
}


@pytest.mark.parametrize(("flag", "words"), MEANT.items())
def test_a_class_that_is_not_there_is_answered_with_the_one_most_like_it(
    refused: Callable[..., str], tmp_path: Path, flag: str, words: str
) -> None:
    assert words in refused("fit", flag, "--runs", tmp_path / "runs")


def test_a_class_within_another_is_the_one_that_is_told(refused: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / "flip.yaml"
    config.write_text("data: {init_args: {augmentation: [{class_path: kornia.augmentation.RandomHorizFlip}]}}")
    error = refused("fit", "--config", config, "--runs", tmp_path / "runs")
    assert "data.augmentation names kornia.augmentation.RandomHorizFlip, and" in error
    assert "did you mean kornia.augmentation.RandomHorizontalFlip?" in error


def test_a_package_that_a_class_needs_is_no_class() -> None:
    assert (
        suggest_class("Parser key \"model.network\": given class_path 'models.mine.Net': No module named 'einops'.")
        is None
    )
