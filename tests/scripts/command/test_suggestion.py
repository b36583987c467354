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
    "--model.finetune=3": "model.finetune is 3; give a class or null; scripts/train.py fit --model.finetune.help",
    "--feature_cache=true": "feature_cache is true; give a class or null; scripts/train.py fit --feature_cache.help",
    "--model.optimizer=0.1": "model.optimizer is 0.1; give a class or null; scripts/train.py fit --model.optimizer",
    "--model.network=null": "model.network needs a class, and its arguments under init_args; write model.network",
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


FLAGS = {
    "--lr=1": "--lr; did you mean --model.optimizer.lr?",
    "--seed=1": "--seed; did you mean --seed_everything?",
    "--epochs=1": "--epochs; did you mean --trainer.max_epochs?",
    "--trainer.epochs=1": "--trainer.epochs; did you mean --trainer.max_epochs?",
    "--batch-size=1": "--batch-size; did you mean --data.batch_size?",
    "--batch_size=1": "--batch_size; did you mean --data.batch_size?",
    "--data.batchsize=1": "--data.batchsize; did you mean --data.batch_size?",
    "--data.init_args.batchsize=1": "--data.batchsize; did you mean --data.batch_size?",
    "--data={init_args: {batchsize: 1}}": "--data.batchsize; did you mean --data.batch_size?",
    "--model.lr=1": "--model.lr; did you mean --model.optimizer.lr?",
    "--model={lr: 1}": "--model.lr; did you mean --model.optimizer.lr?",
    "--gpus=1": "--gpus; did you mean --trainer.devices?",
    "--weight-decay=1": "--weight-decay; did you mean --model.optimizer.weight_decay?",
    "--optimizer=SGD": "--optimizer; did you mean --model.optimizer?",
    "--patience=1": "--patience; did you mean --early_stopping.patience?",
    "--early_stopping.patence=1": "--early_stopping.patence; did you mean --early_stopping.patience?",
    "--resum": "--resum; did you mean --resume?",
    "lr=1": "--lr; did you mean --model.optimizer.lr?",
}


@pytest.mark.parametrize(("flag", "words"), FLAGS.items())
def test_a_flag_that_is_not_there_is_answered_with_the_right_one(
    refused: Callable[..., str], tmp_path: Path, flag: str, words: str
) -> None:
    assert refused("fit", "--runs", tmp_path / "runs", flag) == f"error: There is no {words}\n"


def test_the_arguments_of_the_class_that_is_given_are_known(refused: Callable[..., str], tmp_path: Path) -> None:
    for flags, meant in (
        (("--model.optimizer", "SGD", "--momentum", "0.9"), "model.optimizer.momentum"),
        (("--weight_average", "EMA", "--weight_average.decy", "0.9"), "weight_average.decay"),
        (("--data", "ImageFolder", "--image-size", "32"), "data.image_size"),
    ):
        assert f"did you mean --{meant}?" in refused("fit", *flags, "--runs", tmp_path / "runs")


def test_a_key_that_is_not_there_is_answered_with_the_right_one(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("lr: 1")
    assert "There is no --lr; did you mean --model.optimizer.lr?" in refused("fit", "--config", tmp_path / "mine.yaml")


@pytest.mark.parametrize("flag", ["--xyzzy=1", "xyzzy"])
def test_a_flag_like_no_other_leads_to_the_help(refused: Callable[..., str], tmp_path: Path, flag: str) -> None:
    error = refused("fit", "--runs", tmp_path / "runs", flag)
    assert error == f"error: unrecognized arguments: {flag}. See: scripts/train.py fit --help.\n"


def test_what_the_data_fill_in_is_not_suggested(refused: Callable[..., str], tmp_path: Path) -> None:
    for name in ("num_classes", "in_channels"):
        assert f".{name}" not in refused("fit", "--runs", tmp_path / "runs", f"--{name}=3")


def test_a_package_that_a_class_needs_is_no_class() -> None:
    assert (
        suggest_class("Parser key \"model.network\": given class_path 'models.mine.Net': No module named 'einops'.")
        is None
    )
