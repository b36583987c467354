import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.comparison.comparison import compare_runs
from scripts.comparison.runs import Run, read_run
from scripts.uncertainty.mean import by_fold, mean_of_runs
from tests.scripts.comparison.test_comparison import cells, runs
from tests.scripts.comparison.test_runs import write_run


def test_a_seed_counts_once_and_the_newest_that_was_tested(tmp_path: Path) -> None:
    older, newer = runs(tmp_path, 0.9)[0], runs(tmp_path, 0.8, name="y")[0]
    unfinished = runs(tmp_path, None, name="z")[0]
    comparison = compare_runs([unfinished, newer, older])
    (group,) = comparison.groups
    assert group.runs == [newer]
    assert "2 runs of digits/mlp repeat the seed of another" in comparison.notes[0]


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


def test_different_hardware_is_told(tmp_path: Path) -> None:
    one = runs(tmp_path, 0.9)
    folder = write_run(tmp_path / "y/0", lr=2)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"hardware": "a GPU"}))
    (note,) = compare_runs([*one, read_run(folder)]).notes
    assert "a GPU; a processor" in note


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
    assert by_fold(folded.values_with_folds("test/accuracy")) == pytest.approx({0: 0.75, 1: 0.9})
    assert folded.mean("test/accuracy") == mean_of_runs([(0, 0.75), (1, 0.9)], 3)
    assert comparison.notes == [f"{folded.name} lacks fold 2 of its 3 folds; its means are over the other folds."]
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
