import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.user_error import UserError
from scripts.comparison.comparison import Comparison, compare_runs
from scripts.comparison.runs import Run, read_run
from scripts.report.table import show
from scripts.uncertainty.mean import mean_over_seeds
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
        "Mean over 1 to 3 seeds ± half of its 95% t-interval, where seeds gave different values."
    )
    assert shown["parameters"] == ["1,000", "1,000"]
    assert "train/nonfinite_steps" not in shown
    assert comparison.notes == []


def test_figures_that_are_all_the_same_have_no_interval(tmp_path: Path) -> None:
    comparison = compare_runs(runs(tmp_path, 0.9, 0.9))
    assert cells(comparison)["test/accuracy"] == ["0.9000"]
    assert comparison.records()[0]["test/accuracy_low"] is None


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
    with pytest.raises(UserError, match=r"No run has the metric test/f1_makro; did you mean test/f1_macro"):
        compare_runs(with_figures(tmp_path, "x"), ["test/f1_makro"])


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
