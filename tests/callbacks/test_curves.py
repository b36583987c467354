import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.curves import CSVLogger, TensorBoardLogger, cut_curves
from models.serialization.checkpoint import read_checkpoint
from tests.conftest import Run
from tests.faults.case import MEASURED, timeless_points, timeless_rows

SHORT = ("--data.batch_size=128", "--early_stopping=null", "--trainer.log_every_n_steps=4")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_a_resumed_run_has_the_curves_of_an_unbroken_one(train: Callable[..., Run], resume: Callable[..., Run]) -> None:
    flags = (*SHORT, "--model.scheduler=null")
    whole = train(*flags, "--trainer.max_epochs=3")
    run = resume(train(*flags, "--trainer.max_epochs=2"), "--trainer.max_epochs=3")
    assert timeless_rows(run.folder) == timeless_rows(whole.folder)
    assert timeless_points(run.folder) == timeless_points(whole.folder)
    assert len(timeless_points(run.folder)[MEASURED]) == 3


@pytest.mark.slow
def test_what_came_after_the_checkpoint_is_taken_back(train: Callable[..., Run]) -> None:
    run = train(*SHORT, "--trainer.max_epochs=3")
    cut_curves(run.folder, read_checkpoint(run.last)["curves"])
    assert not any(name.startswith("test/") for name in rows(run.folder)[0])
    assert len(points(run.folder)["val/loss"]) == 3
    assert "test/loss" not in points(run.folder)
    cut_curves(run.folder, {})
    assert not list(run.folder.glob("*tfevents*"))
    assert not (run.folder / "metrics.csv").exists()


def test_a_row_that_was_cut_short_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n1,0.5\n2,0.4\n3,0.")
    cut_curves(tmp_path, {"metrics.csv": 2})
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,train/loss", "1,0.5", "2,0.4"]


@pytest.mark.parametrize("broken_call", ["writerow", "writerows"], ids=["as columns are added", "as rows are added"])
def test_rows_wait_while_the_table_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken_call: str
) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"train/loss": 0.5}, step=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(csv.DictWriter, broken_call, full)
        logger.log_metrics({"train/loss": 0.4, "val/loss": 0.6}, step=2)
        logger.save()
    told = capsys.readouterr().err
    assert told.count("metrics.csv could not be written (No space left on device)") == 1, "it is said once"
    assert [(row["step"], row["train/loss"]) for row in rows(tmp_path)] == [("1", "0.5")]
    logger.log_metrics({"train/loss": 0.3}, step=3)
    assert [(row["step"], row["train/loss"], row["val/loss"]) for row in rows(tmp_path)] == [
        ("1", "0.5", ""),
        ("2", "0.4", "0.6"),
        ("3", "0.3", ""),
    ]


def test_a_checkpoint_knows_how_long_the_table_is_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = CSVLogger(tmp_path)
    for step in range(3):
        first.log_metrics({"train/loss": 0.5}, step=step)
    taken_up = CSVLogger(tmp_path)
    taken_up.log_metrics({"val/loss": 0.4}, step=3)
    monkeypatch.setattr(csv, "DictReader", lambda *_: pytest.fail("reads the table"))
    taken_up.log_metrics({"train/loss": 0.3}, step=4)
    assert taken_up.lengths() == {"metrics.csv": 5}


def test_tensorboard_goes_on_in_another_file_when_there_is_space_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"train/loss": 0.5}, step=1)
    logger.save()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(type(logger.experiment), "flush", full)
        logger.save()
    assert "points for TensorBoard are lost (No space left on device)" in capsys.readouterr().err
    logger.log_metrics({"train/loss": 0.3}, step=3)
    logger.finalize("success")
    assert [step for step, _ in points(tmp_path)["train/loss"]] == [1, 3]
    assert len(os.listdir(tmp_path)) >= 2  # noqa: PTH208  # a count is wanted
