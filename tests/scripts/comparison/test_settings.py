import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.comparison.comparison import compare_runs
from scripts.comparison.runs import read_run
from scripts.comparison.settings import differing_keys, names_by_difference, settings_of, shown_values
from tests.scripts.comparison.test_comparison import cells, network, runs
from tests.scripts.comparison.test_runs import write_run


def test_settings_are_those_that_could_matter() -> None:
    config = {
        "seed_everything": 1,
        "runs": "x",
        "trainer": {"max_epochs": 3, "logger": [{"class_path": "L"}], "precision": None},
        "data": {"class_path": "d.D", "init_args": {"root": "data", "limit": 0.5, "classes": ["a", 1]}},
        "early_stopping": None,
        "progress_bar": {"class_path": "p.P", "init_args": {"refresh_rate": 1}},
    }
    assert settings_of(config) == {
        "trainer.max_epochs": "3",
        "trainer.precision": "null",
        "data": "d.D",
        "data.limit": "0.5",
        "data.classes": "[a, 1]",
    }
    assert settings_of({"lr": 0.1, "eps": 1e-8, "off": 0.0}) == {"lr": "0.1", "eps": "1e-08", "off": "0.0"}
    nested = {
        "data": {"augmentation": [{"class_path": "k.Flip", "init_args": {"p": 0.5, "x": None}}], "other": [{"a": 1}]}
    }
    assert settings_of(nested) == {"data.augmentation": "[k.Flip(p=0.5, x=null)]", "data.other": '[{"a": 1}]'}


def test_settings_that_changed_on_the_way_are_given_with_their_steps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", seed=0, accuracy=0.9, lr=1)
    lr, root = "config model.optimizer.init_args.lr", "config data.init_args.root"
    starts = [
        {"step": 63, "differs": {lr: {"was": 0.003, "is": 0.001}, root: {"was": "a", "is": "b"}}},
        {"step": 70, "differs": {lr: {"was": 0.001, "is": 0.0001}, "package torch": {"was": "1", "is": "2"}}},
    ]
    (folder / "restarts.json").write_text(json.dumps(starts))
    before = read_run(write_run(tmp_path / "unbroken", seed=0, accuracy=0.9, lr=1)).settings
    changed = {"model.optimizer.lr": "0.003, from step 63 on 0.001, from step 70 on 0.0001"}
    assert read_run(folder).settings == before | changed


def test_only_settings_that_differ_are_shown_and_classes_by_their_names(tmp_path: Path) -> None:
    one: dict[str, Any] = {
        "model": network("models.convnet.ConvNet", kernel_size=3, padding=None, dropout=0.0),
        "same": 1,
        "w": 0.1,
    }
    other: dict[str, Any] = {"model": network("models.mlp.MLP", hidden_sizes=[64]), "same": 1, "w": 0.0}
    comparison = compare_runs([*runs(tmp_path, 0.9, **one), *runs(tmp_path, 0.8, name="y", **other)])
    assert differing_keys([group.settings for group in comparison.groups]) == [
        "model.network",
        "model.network.kernel_size",
        "w",
        "model.network.hidden_sizes",
    ]
    shown = cells(comparison)
    assert shown["model.network"] == ["ConvNet", "MLP"]
    assert shown["model.network.kernel_size"] == ["3", "-"]
    assert shown["w"] == ["0.1", "0.0"]


@pytest.mark.parametrize("path", ["models.convnet.ConvNet", "elsewhere.Net"])
def test_values_that_are_off_in_different_ways_are_different_experiments(tmp_path: Path, path: str) -> None:
    values: list[object] = [None, False, 0, 0.0, [], {}]
    comparison = compare_runs(
        [
            run
            for place, value in enumerate(values)
            for run in runs(tmp_path, 0.9, 0.8, name=f"{place}", model=network(path, padding=value), late=value)
        ]
    )
    assert [len(group.runs) for group in comparison.groups] == [2] * 6
    assert differing_keys([group.settings for group in comparison.groups]) == ["model.network.padding", "late"]
    assert shown_values([group.settings for group in comparison.groups], "late") == [
        "-",
        "false",
        "0",
        "0.0",
        "[]",
        "{}",
    ]


@pytest.mark.parametrize(
    ("config", "is_the_same"),
    [
        ({"ema": None}, True),
        ({"ema": False}, False),
        ({"model": {"freeze": None}}, True),
        ({"data": {"class_path": "datamodules.digits.Digits", "init_args": {"limit": 0}}}, False),
    ],
)
def test_only_null_is_the_same_as_a_setting_that_a_run_lacks(
    tmp_path: Path, config: dict[str, Any], is_the_same: bool
) -> None:
    older, newer = runs(tmp_path, 0.9), runs(tmp_path, 0.8, name="y", **config)
    assert len(compare_runs([*older, replace(newer[0], seed=1)]).groups) == (1 if is_the_same else 2)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("models.convnet.ConvNet", "ConvNet"),
        ("[k.Flip(p=0.5, net=torch.nn.ReLU), k.Cut(x=null)]", "[Flip(p=0.5, net=ReLU), Cut(x=null)]"),
        ("runs/a.Best", "runs/a.Best"),
        ("torch.nn.functional.relu", "torch.nn.functional.relu"),
        ("last.ckpt", "last.ckpt"),
        ("0.5", "0.5"),
    ],
)
def test_classes_are_shown_by_their_names(tmp_path: Path, value: str, shown: str) -> None:
    two = [*runs(tmp_path, 0.9, key=value), *runs(tmp_path, 0.8, name="y", key="other")]
    assert shown_values([group.settings for group in compare_runs(two).groups], "key") == [shown, "other"]


def test_classes_of_the_same_name_are_told_in_full(tmp_path: Path) -> None:
    two = runs(tmp_path, 0.9, net={"class_path": "a.Net"}), runs(tmp_path, 0.8, name="y", net={"class_path": "b.Net"})
    assert shown_values(
        [group.settings for group in compare_runs([run for group in two for run in group]).groups], "net"
    ) == ["a.Net", "b.Net"]


def test_names_are_of_the_first_settings_that_tell_groups_apart() -> None:
    settings = {
        "": ["x", "x", "y"],
        "data": ["d.D", "d.D", "d.D"],
        "optimizer.lr": ["0.1", "1", "0.1"],
        "optimizer.decay": ["0", "1", "2"],
    }
    assert names_by_difference(settings) == ["x lr=0.1", "x lr=1", "y lr=0.1"]


def test_a_class_stands_for_itself_and_other_values_do_not() -> None:
    names = names_by_difference({"model.network": ["MLP", "true", "a.MLP", "-", ""]})
    assert names == ["MLP", "network=true", "network=a.MLP", "network=-", "network="]


def test_keys_with_the_same_end_are_told_in_full() -> None:
    names = names_by_difference({"a.lr": ["1", "2", "1"], "b.lr": ["1", "1", "2"]})
    assert names == ["a.lr=1 b.lr=1", "a.lr=2 b.lr=1", "a.lr=1 b.lr=2"]
