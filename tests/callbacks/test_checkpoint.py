import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from models.checkpoint import DurableCheckpointIO, read_checkpoint
from tests.conftest import Run

SHORT = ("--data.batch_size=256", "--early_stopping=null")


def test_last_is_that_of_the_last_epoch_and_best_that_of_the_best(train: Callable[..., Run]) -> None:
    run = train(*SHORT, "--trainer.max_epochs=4", "--model.optimizer.lr=0.05")
    assert sorted(file.name for file in run.best.parent.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert run.checkpoint["epoch"] == 4
    best = torch.load(run.best, weights_only=True)
    assert best["progress"]["metrics"]["val/accuracy"] == run.results["best"]


def test_last_is_written_without_validation(train: Callable[..., Run]) -> None:
    run = train(
        *SHORT, "--trainer.max_epochs=2", "--trainer.limit_val_batches=0", "--checkpoint.monitor=train/accuracy"
    )
    assert run.checkpoint["epoch"] == 2


def test_a_resumed_run_takes_over_the_best(train: Callable[..., Run]) -> None:
    first = train(*SHORT, "--trainer.max_epochs=3")
    second = train("--ckpt_path", str(first.last), "--trainer.max_epochs=4", "--model.optimizer.lr=0")
    assert second.folder != first.folder
    assert second.best.exists()
    assert second.results["best"] >= first.results["best"]


def test_a_lost_best_is_looked_for_anew(train: Callable[..., Run]) -> None:
    first = train(*SHORT, "--trainer.max_epochs=2")
    moved = first.folder.parent / "moved.ckpt"
    shutil.move(first.last, moved)
    shutil.rmtree(first.folder)
    second = train("--ckpt_path", str(moved), "--trainer.max_epochs=3")
    assert second.best.exists()


def test_a_finished_run_is_tested_again(train: Callable[..., Run]) -> None:
    first = train(*SHORT, "--trainer.max_epochs=2")
    second = train("--ckpt_path", str(first.last))
    assert second.results["metrics"] == first.results["metrics"]
    assert all(
        torch.equal(value, first.checkpoint["state_dict"][name])
        for name, value in second.checkpoint["state_dict"].items()
    )


def test_a_damaged_last_is_told_and_the_best_is_gone_on_with(
    train: Callable[..., Run], resume: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(*SHORT, "--trainer.max_epochs=3", "--checkpoint.monitor=train/loss", "--checkpoint.mode=min")
    expected = whole.checkpoint["state_dict"]
    with whole.last.open("r+b") as file:
        file.seek(5000)
        file.write(b"?" * 100)
    run = resume(whole)
    assert f"{whole.last} is left out: it is damaged, " in capsys.readouterr().out
    assert all(torch.equal(value, expected[name]) for name, value in run.checkpoint["state_dict"].items())


def test_is_written_by_the_clock_too(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    save = DurableCheckpointIO.save_checkpoint

    def spy(self: DurableCheckpointIO, checkpoint: dict[str, Any], path: str | Path, **rest: Any) -> None:
        steps.append(checkpoint["global_step"])
        save(self, checkpoint, path, **rest)

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", spy)
    train(*SHORT, "--trainer.max_epochs=1", "--checkpoint.every_minutes=0.0000001")
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_that_takes_no_checkpoint_is_refused_before_the_first_step(
    refused: Callable[..., str], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callbacks.checkpoint._take_space", full)
    error = refused("fit", "--data.root", data_root, "--runs", tmp_path / "runs")
    assert "cannot take a checkpoint of 0.6 MB: No space left on device; free space there or choose another" in error
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_disk_that_is_full_for_a_while_keeps_what_was_there(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = DurableCheckpointIO.save_checkpoint

    def sometimes(self: DurableCheckpointIO, checkpoint: dict[str, Any], path: str | Path, **rest: Any) -> None:
        if checkpoint["epoch"] == 2:
            full()
        save(self, checkpoint, path, **rest)

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", sometimes)
    run = train(*SHORT, "--trainer.max_epochs=3")
    said = capsys.readouterr().err
    assert said.count("last.ckpt could not be written (No space left on device); training goes on") <= 1
    assert "could not be written (No space left on device); training goes on" in said
    assert run.checkpoint["epoch"] == 3
    best = torch.load(run.best, weights_only=True)
    assert best["progress"]["metrics"]["val/accuracy"] == run.results["best"]


def test_a_disk_that_is_full_at_the_end_is_told_with_a_status(
    train: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = DurableCheckpointIO.save_checkpoint

    def once(self: DurableCheckpointIO, checkpoint: dict[str, Any], path: str | Path, **rest: Any) -> None:
        if checkpoint["epoch"] > 1:
            full()
        save(self, checkpoint, path, **rest)

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", once)
    with pytest.raises(SystemExit) as left:
        train(*SHORT, "--trainer.max_epochs=3")
    assert left.value.code == 1
    assert "error: Training is over, but " in capsys.readouterr().err
    (last,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    assert read_checkpoint(last)["epoch"] == 1


class Odd(Callback):
    """Keeps what no checkpoint may hold."""

    def state_dict(self) -> dict[str, Any]:
        return {"place": Path("here")}


def test_a_checkpoint_that_could_not_be_loaded_ends_the_run_at_its_first_epoch(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        train(*SHORT, "--trainer.max_epochs=3", f"--trainer.callbacks=[{Odd.__module__}.Odd]")
    assert left.value.code == 2
    said = capsys.readouterr()
    assert "best.ckpt cannot be read: it holds code or an object (pathlib.PosixPath)" in said.err
    assert "epoch 2/3" not in said.out


class NaNAtFirst(Callback):
    """Spoils the first epoch's validation."""

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        if trainer.current_epoch == 0:
            batch[0].fill_(torch.nan)


def test_a_figure_that_is_no_number_is_not_the_best(train: Callable[..., Run]) -> None:
    monitor = ("--checkpoint.monitor=val/loss", "--checkpoint.mode=min", "--trainer.max_epochs=2")
    run = train(*SHORT, *monitor, f"--trainer.callbacks=[{{class_path: {__name__}.NaNAtFirst}}]")
    assert run.results["best"] == run.results["metrics"]["val/loss"] > 0
