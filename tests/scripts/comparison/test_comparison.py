import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.user_error import UserError
from scripts.comparison.comparison import (
    Comparison,
    compare_runs,
    differing,
    differing_files,
    differing_settings,
    names_by_difference,
    shown_setting,
)
from scripts.comparison.runs import Run, read_run
from scripts.report.table import show
from scripts.uncertainty.mean import by_fold, mean_of_runs, mean_over_seeds
from tests.scripts.comparison.test_runs import write_run


def runs(tmp_path: Path, *accuracies: float | None, name: str = "x", **config: object) -> list[Run]:
    return [
        read_run(write_run(tmp_path / name / f"{seed}", seed=seed, accuracy=accuracy, **config))
        for seed, accuracy in enumerate(accuracies)
    ]


def network(path: str, **arguments: object) -> dict[str, Any]:
    return {"network": {"class_path": path, "init_args": arguments}}


def cells(comparison: Comparison) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in comparison.table.rows}


def test_repeats_are_one_group_with_mean_and_interval(tmp_path: Path) -> None:
    ours, others = runs(tmp_path, 0.9, 0.92, 0.97, lr=1), runs(tmp_path, 0.5, name="y", lr=2)
    comparison = compare_runs([*ours, *others])
    first, second = comparison.groups
    mean = first.mean("test/accuracy")
    assert mean is not None
    assert mean.value == pytest.approx(0.93)
    assert mean == mean_over_seeds([0.9, 0.92, 0.97])
    assert (first.name, second.name) == ("lr=1", "lr=2")
    shown = cells(comparison)
    assert shown["runs"] == ["3 (seeds 0, 1, 2)", "1 (seeds 0)"]
    assert shown["lr"] == ["1", "2"]
    assert shown["test/accuracy"] == ["0.9300 ± 0.0896", "0.5000"]
    assert comparison.table.caption == (
        "Mean over 1 to 3 seeds ± half of its 95% t-interval, where seeds gave different figures."
    )
    assert shown["parameters"] == ["1,000", "1,000"]
    assert "train/nonfinite_steps" not in shown
    assert comparison.notes == []


def test_figures_that_are_all_the_same_have_no_interval(tmp_path: Path) -> None:
    comparison = compare_runs(runs(tmp_path, 0.9, 0.9))
    assert cells(comparison)["test/accuracy"] == ["0.9000"]
    assert comparison.records()[0]["test/accuracy_low"] is None


def test_only_settings_that_differ_are_shown_and_classes_by_their_names(tmp_path: Path) -> None:
    one: dict[str, Any] = {
        "model": network("models.convnet.ConvNet", kernel_size=3, padding=None, dropout=0.0),
        "same": 1,
        "w": 0.1,
    }
    other: dict[str, Any] = {"model": network("models.mlp.MLP", hidden_sizes=[64]), "same": 1, "w": 0.0}
    comparison = compare_runs([*runs(tmp_path, 0.9, **one), *runs(tmp_path, 0.8, name="y", **other)])
    assert differing(comparison.groups) == [
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
    assert differing(comparison.groups) == ["model.network.padding", "late"]
    assert shown_setting(comparison.groups, "late") == ["-", "false", "0", "0.0", "[]", "{}"]


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
    assert shown_setting(compare_runs(two).groups, "key") == [shown, "other"]


def test_classes_of_the_same_name_are_told_in_full(tmp_path: Path) -> None:
    two = runs(tmp_path, 0.9, net={"class_path": "a.Net"}), runs(tmp_path, 0.8, name="y", net={"class_path": "b.Net"})
    assert shown_setting(compare_runs([run for group in two for run in group]).groups, "net") == ["a.Net", "b.Net"]


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


def test_a_seed_counts_once_and_the_newest_that_was_tested(tmp_path: Path) -> None:
    older, newer = runs(tmp_path, 0.9)[0], runs(tmp_path, 0.8, name="y")[0]
    unfinished = runs(tmp_path, None, name="z")[0]
    comparison = compare_runs([unfinished, newer, older])
    (group,) = comparison.groups
    assert group.runs == [newer]
    assert "2 runs of digits/mlp repeat the seed of another" in comparison.notes[0]


def test_runs_that_have_not_ended_are_listed_and_do_not_count(tmp_path: Path) -> None:
    comparison = compare_runs([*runs(tmp_path, 0.9, None, 0.7), *runs(tmp_path, None, name="y", lr=2)])
    first, second = comparison.groups
    assert first.values("test/accuracy") == [0.9, 0.7]
    assert second.mean("test/accuracy") is None
    shown = cells(comparison)
    assert shown["runs"] == ["2 of 3 (seeds 0, 1, 2)", "1 (seeds 0)"]
    assert shown["test/accuracy"][1] == shown["epochs"][1] == "-"
    assert sum("is unfinished." in note for note in comparison.notes) == 2


def test_more_groups_than_facts_are_rows(tmp_path: Path) -> None:
    many = [run for number in range(30) for run in runs(tmp_path, 0.9, name=f"x{number}", lr=number)]
    table = compare_runs(many).table
    assert len(table.rows) == 30
    assert table.heading[1:4] == ["runs", "lr", "test/accuracy"]
    assert [row[0] for row in table.rows] == [f"lr={number}" for number in range(30)]
    assert all(len(row) == len(table.heading) for row in table.rows)


def with_figures(tmp_path: Path, name: str, **results: Any) -> list[Run]:
    """Three runs with figures of one's own."""
    folders = [write_run(tmp_path / name / f"{seed}", seed=seed, experiment=name, key=name) for seed in range(3)]
    for seed, folder in enumerate(folders):
        file = folder / "results.json"
        own = {"metrics": {"test/f1_macro": 0.5 + seed / 10, "test/spread": 3 + seed}, **results}
        file.write_text(json.dumps(json.loads(file.read_text()) | own))
    return [read_run(folder) for folder in folders]


def test_figures_that_are_asked_for_are_columns_in_their_order(tmp_path: Path) -> None:
    pair = [
        *with_figures(tmp_path, "one", monitor="val/accuracy", best=0.75),
        *with_figures(tmp_path, "other", monitor="val/loss", best=0.25),
    ]
    asked = ["test/spread", "best/val/accuracy", "parameters", "test/f1_macro", "test/spread"]
    comparison = compare_runs(pair, asked, percent=True)
    assert comparison.table.heading == [
        *("", "test/spread", "best/val/accuracy (%)", "parameters", "test/f1_macro (%)"),
    ]
    assert comparison.table.rows == [
        ["one", "4.0000 ± 2.4841", "75.00", "1,000", "60.00 ± 24.84"],
        ["other", "4.0000 ± 2.4841", "-", "1,000", "60.00 ± 24.84"],
    ]
    first, _ = csv.DictReader(io.StringIO(comparison.as_csv()))
    assert float(first["test/f1_macro (%)"]) == pytest.approx(60)
    assert float(first["test/f1_macro (%)_high"]) == pytest.approx(84.84, abs=0.01)


def test_percent_is_of_what_is_better_higher_and_a_share(tmp_path: Path) -> None:
    three = with_figures(
        tmp_path, "x", metrics={"test/accuracy": 0.9, "test/loss": 0.5, "test/f1": 2.0, "test/odd": 0.5}
    )
    asked = ["test/accuracy", "test/loss", "test/f1", "test/odd"]
    assert compare_runs(three, asked, percent=True).table.rows == [["x", "90.00", "0.5000", "2.0000", "0.5000"]]
    assert compare_runs(three, asked).table.rows == [["x", "0.9000", "0.5000", "2.0000", "0.5000"]]


def test_a_figure_that_no_run_has_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No run has the figure test/f1_makro; did you mean test/f1_macro"):
        compare_runs(with_figures(tmp_path, "x"), ["test/f1_makro"])


def test_groups_are_numbered_if_what_tells_them_apart_is_long(tmp_path: Path) -> None:
    long = [run for n in range(2) for run in runs(tmp_path, 0.9, name=f"{n}", lr="0" * 40 + str(n))]
    assert [group.name for group in compare_runs(long).groups] == ["#1 digits/mlp", "#2 digits/mlp"]
    table = compare_runs(long, ["test/accuracy"]).table
    assert table.heading == ["", "lr", "test/accuracy"], "numbers alone would say nothing"
    long = [replace(run, experiment=f"e{number}" * 20) for number, run in enumerate(long)]
    assert [group.name for group in compare_runs(long).groups] == [f"#1 {'e0' * 20}", f"#2 {'e1' * 20}"]


def test_the_direction_is_the_monitors_or_the_names(tmp_path: Path) -> None:
    checkpoint = {"monitor": "val/accuracy_gap", "mode": "min"}
    (group,) = compare_runs(runs(tmp_path, 0.9, checkpoint=checkpoint)).groups
    assert [group.direction(name) for name in ("test/accuracy_gap", "test/accuracy", "test/loss", "test/odd")] == [
        *("min", "max", "min", None),
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_twenty_groups_are_read_on_a_terminal(tmp_path: Path, width: int) -> None:
    networks = ("models.convnet.ConvNet", "models.mlp.MLP", "models.resnet.ResNet", "models.airbench.AirBench")
    many = [
        run
        for place, path in enumerate(networks)
        for rate in range(5)
        for run in runs(tmp_path, 0.9, 0.8, name=f"{place}{rate}", model=network(path), lr=0.001 * (1 + rate))
    ]
    console = Console(file=io.StringIO(), width=width)
    show(compare_runs(many, ["test/accuracy", "test/loss"]).table, console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 20 + 4 + 2, "one table, whose cells take one line each"
    assert sum("│ lr=0.001 ConvNet " in line and line.count("±") == 2 for line in lines) == 1


def test_csv_has_every_figure_in_full(tmp_path: Path) -> None:
    two = [*runs(tmp_path, 0.9, 0.8, lr=1), *runs(tmp_path, 0.123456789, name="y", lr=2)]
    rows = list(csv.DictReader(io.StringIO(compare_runs(two).as_csv())))
    assert [row["lr"] for row in rows] == ["1", "2"]
    assert [row["seeds"] for row in rows] == ["0 1", "0"]
    assert float(rows[1]["test/accuracy"]) == 0.123456789
    assert rows[1]["test/accuracy_low"] == ""
    ends = float(rows[0]["test/accuracy_low"]), float(rows[0]["test/accuracy_high"])
    assert ends == mean_over_seeds([0.9, 0.8]).interval
    assert rows[0]["interval"] == "95% t-interval of the mean over seeds"


def test_hostile_names_stay_within_their_cells(tmp_path: Path) -> None:
    hostile = {"experiment": 'a\nb\x1b[2J,"c"', "k": "v\r\nw\x1b"}
    comparison = compare_runs([*runs(tmp_path, 0.9, **hostile), *runs(tmp_path, 0.8, name="y", lr=2)])
    cells_ = [*comparison.table.heading, *(cell for row in comparison.table.rows for cell in row)]
    assert all(cell.isprintable() for cell in cells_)
    rows = list(csv.DictReader(io.StringIO(comparison.as_csv())))
    assert len(rows) == 2
    assert rows[0]["experiment"] == 'a\\nb\\x1b[2J,"c"'


def test_different_hardware_is_told(tmp_path: Path) -> None:
    one = runs(tmp_path, 0.9)
    folder = write_run(tmp_path / "y/0", lr=2)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"hardware": "a GPU"}))
    (note,) = compare_runs([*one, read_run(folder)]).notes
    assert "a GPU; a processor" in note


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({}, {"val_size": 0.3}, ""),
        ({"split_seed": 0}, {"split_seed": 1}, "data.split_seed is 0 in split_seed=0 and 1 in split_seed=1"),
        (
            {"classes": None},
            {"classes": ["a", "b"]},
            "data.classes is null in classes=null and [a, b] in classes=[a, b]",
        ),
        (
            {"limit": None, "test_size": 0.2},
            {"limit": 0.5, "test_size": 0.1},
            "data.limit is null in limit=null and 0.5 in limit=0.5; data",
        ),
    ],
)
def test_settings_that_give_other_test_images_are_told(
    tmp_path: Path, one: dict[str, object], other: dict[str, object], told: str
) -> None:
    data: list[dict[str, Any]] = [{"data": {"class_path": "d.D", "init_args": arguments}} for arguments in (one, other)]
    pair = [*runs(tmp_path, 0.9, **data[0]), *runs(tmp_path, 0.8, name="y", lr=2, **data[1])]
    first, second = compare_runs(pair).groups
    sentence = differing_settings(first, second)
    assert told in sentence
    assert bool(told) == bool(sentence)


def test_files_of_the_data_that_have_changed_are_told(tmp_path: Path) -> None:
    data: dict[str, Any] = {"data": {"class_path": "d.D"}}
    one, other = runs(tmp_path, 0.9, **data)[0], runs(tmp_path, 0.8, name="y", lr=2, **data)[0]

    def told(first: str | None, second: str | None) -> str:
        pair = [replace(one, data_fingerprint=first), replace(other, data_fingerprint=second)]
        return differing_files(*compare_runs(pair).groups)

    assert "The images of the data have changed between the runs of lr=- and lr=2" in told("content 1", "content 2")
    assert told("content 1", "content 1") == told(None, "content 2") == ""
    assert told("5f0c", "content 2") == "", "what older runs know are files"
    other.settings["data"] = "d.E"
    assert told("content 1", "content 2") == "", "of another data set, the setting is told"


def test_runs_that_differ_in_their_fold_are_one_group(tmp_path: Path) -> None:
    def fold(number: int | None, accuracy: float, seed: int = 0, name: str = "x", folds: int | None = 3) -> Run:
        data = {"class_path": "datamodules.digits.Digits", "init_args": {"folds": folds, "fold": number}}
        folder = tmp_path / name / f"{seed}-{number}-{accuracy}"
        return read_run(write_run(folder, seed=seed, accuracy=accuracy, data=data))

    plain = fold(None, 0.5, name="plain", folds=None)
    assert plain.fold is None
    comparison = compare_runs([fold(1, 0.9), fold(0, 0.8), fold(0, 0.7, seed=1), plain])
    folded, single = comparison.groups
    assert [(run.fold, run.seed) for run in folded.runs] == [(0, 0), (0, 1), (1, 0)]
    assert (folded.folds, single.folds) == (3, 0)
    assert by_fold(folded.measured("test/accuracy")) == pytest.approx({0: 0.75, 1: 0.9})
    assert folded.mean("test/accuracy") == mean_of_runs([(0, 0.75), (1, 0.9)], 3)
    assert comparison.notes == [f"Of 3 folds, {folded.name} lacks 2: its means are over the others."]
    shown = cells(comparison)
    assert shown["runs"] == ["3 (seeds 0, 1; folds 0, 1)", "1 (seeds 0)"]
    assert (shown["data.folds"], shown["data.fold"]) == (["3", "null"], ["each", "null"])
    assert "Mean over 2 folds ± half of its 95% t-interval, corrected for" in comparison.table.caption
    record, _ = comparison.records()
    assert (record["seeds"], record["folds"]) == ("0 1 0", "0 0 1")
    assert "mean over folds, corrected" in record["interval"]
    given = compare_runs([fold(number, 0.5 + number / 10, name="given", folds=None) for number in (0, 1, 2)])
    assert given.groups[0].folds == 3, "where the data have a column of folds"
    assert given.notes == []
