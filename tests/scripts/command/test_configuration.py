from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.own_classes import own_classes
from core.user_error import UserError
from scripts.command.configuration import merge, read_config, switch_classes
from scripts.train import main
from scripts.training.several_runs import ConfigReader

ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1, "weight_decay": 0.5}}


def test_upper_layer_wins_key_by_key() -> None:
    merged = merge({"trainer": {"max_epochs": 1, "precision": 32}}, {"trainer": {"max_epochs": 2}, "runs": "elsewhere"})
    assert merged == {"trainer": {"max_epochs": 2, "precision": 32}, "runs": "elsewhere"}


def test_arguments_stay_with_their_class() -> None:
    assert merge({"optimizer": ADAM}, {"optimizer": {"init_args": {"lr": 1}}})["optimizer"]["init_args"] == {
        "lr": 1,
        "weight_decay": 0.5,
    }
    assert merge({"optimizer": ADAM}, {"optimizer": {"class_path": "torch.optim.SGD"}}) == {
        "optimizer": {"class_path": "torch.optim.SGD"}
    }


def test_a_class_is_the_same_by_its_name_and_by_its_path() -> None:
    below = {"network": {"class_path": "models.mlp.MLP", "init_args": {"dropout": 0.5}}}
    for over, flags in (({"network": {"class_path": "MLP"}}, []), ({}, ["--network", "MLP"])):
        assert switch_classes(merge(below, over), flags)["network"]["init_args"] == {"dropout": 0.5}
    assert "init_args" not in merge(below, {"network": {"class_path": "ResNet"}})["network"]


def test_arguments_alone_are_those_of_the_class_below() -> None:
    merged = merge({"optimizer": ADAM, "trainer": {"max_epochs": 3}}, {"optimizer": {"lr": 1}, "trainer": {}})
    assert merged == {
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1, "weight_decay": 0.5}},
        "trainer": {"max_epochs": 3},
    }


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("early_stopping: {class_path: EarlyStopping, patience: 3}", "early_stopping"),
        ("feature_cache: {variants: 3}", "feature_cache"),
        ("model: {network: {class_path: MLP, width: 3}}", "model.network"),
    ],
)
def test_arguments_beside_their_class_or_without_one_are_told_their_place(
    text: str, key: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    sentence = f"{key} needs a class, and its arguments under init_args; write {key}: {{class_path: CLASS, init_args:"
    assert sentence in refused("fit", "--config", tmp_path / "mine.yaml", "--runs", tmp_path / "runs")


def test_the_help_of_a_class_lists_its_arguments_and_no_library(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--data.help", "ImageFolder"])
    said = capsys.readouterr().out
    assert "--data.image_size" in said
    assert "--data.split_seed" in said
    assert "torch.nn.modules" not in said
    assert said.count("\n") < 200


def test_layers_are_left_as_they_are() -> None:
    base = {"model": {"optimizer": dict(ADAM)}}
    merge(base, {"model": {"optimizer": {"init_args": {"lr": 2}}}})
    assert base == {"model": {"optimizer": ADAM}}


def test_lists_are_replaced_or_appended_as_written() -> None:
    assert merge({"callbacks": [1]}, {"callbacks": [2]}) == {"callbacks": [2]}
    assert merge({"callbacks+": [1]}, {"callbacks+": [2]}) == {"callbacks+": [1, 2]}


def test_null_takes_away() -> None:
    assert merge({"early_stopping": ADAM}, {"early_stopping": None}) == {"early_stopping": None}


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.optimizer", "torch.optim.SGD"],
        ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1"],
        ["--runs", "here", "--model.optimizer.class_path", "torch.optim.SGD"],
    ],
)
def test_a_flag_that_names_a_class_clears_the_others_arguments(flags: list[str]) -> None:
    assert switch_classes({"model": {"optimizer": ADAM}}, flags) == {
        "model": {"optimizer": {"class_path": "torch.optim.SGD"}}
    }


@pytest.mark.parametrize(
    "flags",
    [[], ["--model.optimizer.lr", "1"], ["--model.optimizer", "torch.optim.Adam"], ["--model.optimizer", "null"]],
)
def test_other_flags_clear_nothing(flags: list[str]) -> None:
    assert switch_classes({"model": {"optimizer": ADAM}}, flags) == {"model": {"optimizer": ADAM}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *(("[1, 2]", "it holds a list"), ("a: [", "it is not YAML"), ("7", "it holds a int")),
        *(("a: \x00", "it is not YAML"), ("trainer:  # max_epochs: 3", "its section trainer has no keys")),
    ],
)
def test_refuses_what_is_no_configuration(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"bad\.yaml cannot be read: {words}"):
        read_config(tmp_path / "bad.yaml")


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "empty.yaml") == {}


MIXED = "{class_path: MixUp, init_args: {alpha: 0.3}}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "place", "path"),
    [
        (["--model.network", "ResNet"], "model.network", "models.resnet.ResNet"),
        (["--model.network=models.resnet.ResNet"], "model.network", "models.resnet.ResNet"),
        (["--model.network.class_path", "ResNet"], "model.network", "models.resnet.ResNet"),
        (["--data", "MNIST", "--data.val_size", "0.3"], "data", "datamodules.mnist.MNIST"),
        (["--data.mixing", f"[{MIXED}]"], "data.init_args.mixing", "datamodules.mixing.MixUp"),
        (["--data.augmentation+", "RandomCrop"], "data.init_args.augmentation", "datamodules.random_crop.RandomCrop"),
        (["--model.loss", "SoftmaxMSE"], "model.loss", "models.losses.SoftmaxMSE"),
        (["--model.scheduler", "WarmupCosine"], "model.scheduler", "models.schedule.WarmupCosine"),
        (["--model.optimizer", "SGD"], "model.optimizer", "torch.optim.SGD"),
        (["--early_stopping", "EarlyStopping"], "early_stopping", "callbacks.early_stopping.EarlyStopping"),
        (["--weight_average", "EMA", "--weight_average.decay=0.9"], "weight_average", "callbacks.ema.EMA"),
        (["--trainer.callbacks+", "Whitening"], "trainer.callbacks", "callbacks.whitening.Whitening"),
        (["--trainer.logger", "[CSVLogger]"], "trainer.logger", "callbacks.curves.CSVLogger"),
        ("model: {network: ResNet}", "model.network", "models.resnet.ResNet"),
        ("model: {network: {class_path: ResNet}}", "model.network", "models.resnet.ResNet"),
        ("data: {class_path: MNIST}", "data", "datamodules.mnist.MNIST"),
        (f"data: {{init_args: {{mixing: [{MIXED}]}}}}", "data.init_args.mixing", "datamodules.mixing.MixUp"),
    ],
)
def test_own_classes_go_by_their_names(tmp_path: Path, given: list[str] | str, place: str, path: str) -> None:
    if isinstance(given, str):
        (tmp_path / "mine.yaml").write_text(given)
        given = ["--config", str(tmp_path / "mine.yaml")]
    node: Any = yaml.safe_load(ConfigReader(["fit", *given]).config_text)
    for part in place.split("."):
        node = node[part]
    assert (node[-1] if isinstance(node, list) else node)["class_path"] == path


def test_a_name_that_is_no_class_stays_a_text() -> None:
    config = yaml.safe_load(ConfigReader(["fit", "--experiment=ResNet", "--runs=MNIST", "--data.root=MLP"]).config_text)
    assert (config["experiment"], config["runs"], config["data"]["init_args"]["root"]) == ("ResNet", "MNIST", "MLP")


def test_a_name_of_several_classes_asks_for_the_path(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(own_classes(), "ResNet", ["models.other.ResNet", "models.resnet.ResNet"])
    for flags in (("--model.network", "ResNet"), ("--model", "{network: {class_path: ResNet}}")):
        error = refused("fit", *flags, "--runs", tmp_path / "runs")
        assert "ResNet is the name of several classes; give one of models.other.ResNet, models.resnet.ResNet." in error


PLATEAU = "--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau"
LAID = {"monitor": "val/loss", "mode": "min"}
SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.mark.parametrize(
    ("flags", "place", "expected"),
    [
        ([], "checkpoint", "max"),
        (["--checkpoint.monitor=val/loss"], "checkpoint", "min"),
        (["--checkpoint.monitor", "train/loss", "--checkpoint.mode=max"], "checkpoint", "max"),
        (["--early_stopping.init_args.monitor=val/loss"], "early_stopping", "min"),
        ([PLATEAU, "--model.scheduler.monitor=val/accuracy"], "model.scheduler", "max"),
        ([PLATEAU, "--model.scheduler.monitor=val/accuracy", "--model.scheduler.mode=min"], "model.scheduler", "min"),
        (["--checkpoint", SAVER, "--checkpoint.monitor=val/accuracy"], "checkpoint", "max"),
        (
            [f"--trainer.callbacks=[{{class_path: {SAVER}, init_args: {{monitor: val/f1}}}}]"],
            "trainer.callbacks",
            "max",
        ),
        (["--config={laid}"], "checkpoint", "min"),
        (["--config={laid}", "--checkpoint.monitor=val/accuracy"], "checkpoint", "max"),
        (["--config={laid}", "--checkpoint={init_args: {monitor: val/accuracy}}"], "checkpoint", "max"),
        (["--config={laid}", "--config={over}"], "checkpoint", "max"),
    ],
)
def test_whatever_monitors_a_metric_has_the_direction_of_it(
    tmp_path: Path, flags: list[str], place: str, expected: str
) -> None:
    for name, arguments in (("laid", LAID), ("over", {"monitor": "val/accuracy"})):
        (tmp_path / name).write_text(yaml.safe_dump({"checkpoint": {"init_args": arguments}}))
    places = {f"{{{name}}}": str(tmp_path / name) for name in ("laid", "over")}
    flags = [reduce(lambda flag, item: flag.replace(*item), places.items(), flag) for flag in flags]
    node: Any = yaml.safe_load(ConfigReader(["fit", *flags]).config_text)
    for part in place.split("."):
        node = node[part]
    node = node[0] if isinstance(node, list) else node
    assert node["init_args"]["mode"] == expected


@pytest.mark.parametrize("key", ["checkpoint", "early_stopping", "model.scheduler"])
def test_a_metric_of_unknown_direction_needs_a_mode(refused: Callable[..., str], key: str) -> None:
    error = refused("fit", PLATEAU, "--model.scheduler.monitor=val/loss", f"--{key}.monitor=val/score")
    assert f"{key}.monitor is val/score, whose name does not say whether lower or higher is better" in error
    assert f"give {key}.mode min or max" in error


F1 = "{class_path: F1Score, init_args: {average: macro}}"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model.metrics.k", "CohenKappa"], {"f1": yaml.safe_load(F1), "k": "CohenKappa"}),
        (["--model.metrics.k=CohenKappa", f"--model.metrics.g={F1}", "--model.metrics.f1=null"], None),
        (["--model.metrics.f1", "AUROC"], {"f1": "AUROC"}),
        (["--model.metrics", "{k: CohenKappa}"], {"k": "CohenKappa"}),
    ],
    ids=str,
)
def test_flags_of_metrics_are_laid_over_those_of_files(tmp_path: Path, flags: list[str], expected: Any) -> None:
    (tmp_path / "f1.yaml").write_text(f"model: {{metrics: {{f1: {F1}}}}}")
    read = ConfigReader(["fit", "--config", str(tmp_path / "f1.yaml"), *flags])
    expected = expected or {"k": "CohenKappa", "g": yaml.safe_load(F1), "f1": None}
    assert yaml.safe_load(read.config_text)["model"]["metrics"] == expected
