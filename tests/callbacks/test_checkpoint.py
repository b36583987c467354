import shutil
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from core.durable_file import publish
from datamodules.digits import Digits
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint
from models.serialization.checkpoint_io import DurableCheckpointIO
from tests.callbacks.test_curves import rows
from tests.callbacks.test_weight_average import figures
from tests.conftest import Run
from tests.scripts.test_export import disk_of

SHORT = ("--data.batch_size=256", "--early_stopping=null")


@pytest.mark.slow
def test_last_is_that_of_the_last_epoch_and_best_that_of_the_best(train: Callable[..., Run]) -> None:
    run = train(*SHORT, "--trainer.max_epochs=4", "--model.optimizer.lr=0.05")
    assert {file.name for file in run.best.parent.iterdir()} - {"previous.ckpt"} == {"best.ckpt", "last.ckpt"}
    assert run.checkpoint["epoch"] == 4
    best = torch.load(run.best, weights_only=True)
    assert best["progress"]["metrics"]["val/accuracy"] == run.results["best"]


@pytest.mark.slow
def test_a_best_that_is_the_last_is_written_once_and_the_one_before_is_kept(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    save = torch.save

    def spy(content: dict[str, Any], file: Any) -> None:
        steps.append(content["global_step"])
        save(content, file)

    monkeypatch.setattr(torch, "save", spy)
    run = train(*SHORT, "--trainer.max_epochs=3", "--checkpoint.monitor=train/loss")
    assert steps == [6, 12, 18]
    assert run.best.samefile(run.last)
    assert read_checkpoint(run.last.with_name("previous.ckpt"))["global_step"] == 12
    assert 0 < run.results["waiting_for_checkpoints"] < run.results["seconds"]
    worse = train(*SHORT, "--trainer.max_epochs=3", "--checkpoint.monitor=train/loss", "--checkpoint.mode=max")
    assert {file.name for file in worse.best.parent.iterdir()} == {"best.ckpt", "last.ckpt"}
    assert [read_checkpoint(file)["epoch"] for file in (worse.best, worse.last)] == [1, 3]


def test_last_is_written_without_validation(train: Callable[..., Run]) -> None:
    run = train(
        *SHORT, "--trainer.max_epochs=2", "--trainer.limit_val_batches=0", "--checkpoint.monitor=train/accuracy"
    )
    assert run.checkpoint["epoch"] == 2


@pytest.mark.slow
def test_a_resumed_run_takes_over_the_best(train: Callable[..., Run]) -> None:
    first = train(*SHORT, "--trainer.max_epochs=3")
    second = train("--ckpt_path", str(first.last), "--trainer.max_epochs=4", "--model.optimizer.lr=0")
    assert second.folder != first.folder
    assert second.best.exists()
    assert second.results["best"] >= first.results["best"]


@pytest.mark.slow
def test_the_best_of_an_early_run_is_known_by_the_configuration_beside_it(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(*SHORT, "--trainer.max_epochs=2")
    for file in (first.best, first.last):
        content = torch.load(file, weights_only=True)
        content["callbacks"]["Checkpoint"].pop("basis", None)  # the best may be the last
        torch.save(content, file)
    capsys.readouterr()
    more = ("--ckpt_path", str(first.last), "--trainer.max_epochs=3", "--model.optimizer.lr=0")
    assert train(*more).results["best"] >= first.results["best"]
    assert "best" not in capsys.readouterr().out.partition("epoch")[0]
    train(*more, "--checkpoint.monitor=val/loss")
    assert "the choice of the best checkpoint starts again: metric" in capsys.readouterr().out


@pytest.mark.slow
def test_a_lost_best_is_looked_for_anew(train: Callable[..., Run]) -> None:
    first = train(*SHORT, "--trainer.max_epochs=2")
    moved = first.folder.parent / "moved.ckpt"
    shutil.move(first.last, moved)
    shutil.rmtree(first.folder)
    second = train("--ckpt_path", str(moved), "--trainer.max_epochs=3")
    assert second.best.exists()


@pytest.mark.slow
def test_a_finished_run_is_tested_again(train: Callable[..., Run]) -> None:
    first = train(*SHORT, "--trainer.max_epochs=2")
    second = train("--ckpt_path", str(first.last))
    assert second.results["metrics"] == first.results["metrics"]
    done = torch.load(first.last, weights_only=True)["progress"]["run_seconds"]
    assert second.results["seconds"] == round(done, 3), "nothing was trained"
    assert all(
        torch.equal(value, first.checkpoint["state_dict"][name])
        for name, value in second.checkpoint["state_dict"].items()
    )


@pytest.mark.slow
def test_a_damaged_last_is_told_and_the_best_is_gone_on_with(
    train: Callable[..., Run], resume: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(*SHORT, "--trainer.max_epochs=3", "--checkpoint.monitor=train/loss", "--checkpoint.mode=min")
    expected = whole.checkpoint["state_dict"]
    with whole.last.open("r+b") as file:
        file.seek(5000)
        file.write(b"?" * 100)
    run = resume(whole)
    assert f"{whole.last} is left out: it is truncated or damaged" in capsys.readouterr().out
    assert all(torch.equal(value, expected[name]) for name, value in run.checkpoint["state_dict"].items())


@pytest.mark.slow
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
    refused: Callable[..., str], data_root: Path, tmp_path: Path
) -> None:
    with disk_of(300_000):
        error = refused("fit", "--data.root", data_root, "--runs", tmp_path / "runs")
    assert "cannot take a checkpoint of 0.6 MB: File too large; free space there or choose another" in error
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--weight_average=callbacks.ema.EMA",),
        ("--weight_average=callbacks.swa.SWA", "--weight_average.start=0"),
    ],
)
def test_the_folder_is_tried_with_the_size_that_the_checkpoint_has(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr("callbacks.checkpoint.check_checkpoint_fits", lambda folder, size: sizes.append(size))
    run = train(*SHORT, "--trainer.max_epochs=1", *flags)
    assert sizes == [pytest.approx(run.last.stat().st_size, rel=0.1)]


@pytest.mark.parametrize("size", [0, 100, 4096])
def test_a_full_disk_at_the_start_is_told_in_one_sentence(
    train: Callable[..., Run], refused: Callable[..., str], data_root: Path, tmp_path: Path, size: int
) -> None:
    with disk_of(size):
        error = refused("fit", "--data.root", data_root, "--runs", tmp_path / "runs")
    assert "File too large; free space there or choose another place with --runs." in error
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.slow
def test_a_full_disk_leaves_a_run_that_is_taken_up_as_it_was(
    train: Callable[..., Run], resume: Callable[..., Run], refused: Callable[..., str]
) -> None:
    run = train(*SHORT, "--trainer.max_epochs=2")
    files = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
    for size in (0, 4096, 600_000):
        with disk_of(size):
            error = refused("fit", "--resume", run.folder, "--trainer.max_epochs=3")
        assert "File too large; free space there or choose another place with --runs." in error
        assert {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()} == files
    assert resume(Run(run.folder), "--trainer.max_epochs=3").checkpoint["epoch"] == 3


@pytest.mark.slow
def test_what_the_disk_takes_no_more_after_all_is_told_and_tried_again(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Path] = []

    def sometimes(part: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            full()
        publish(part, target)

    monkeypatch.setattr("callbacks.checkpoint.publish", sometimes)
    run = train(*SHORT, "--trainer.max_epochs=3", "--checkpoint.monitor=train/loss")
    assert capsys.readouterr().err.count("last.ckpt could not be written (No space left on device)") == 1
    assert [len(calls), run.checkpoint["epoch"]] == [3, 3]
    assert read_checkpoint(run.best)["progress"]["metrics"]["train/loss"] == run.results["best"]


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_keeps_what_was_there(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = DurableCheckpointIO.save_checkpoint

    def sometimes(self: DurableCheckpointIO, checkpoint: dict[str, Any], path: str | Path, **rest: Any) -> None:
        with disk_of(300_000) if checkpoint["epoch"] == 2 else nullcontext():
            save(self, checkpoint, path, **rest)

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", sometimes)
    run = train(*SHORT, "--trainer.max_epochs=3")
    said = capsys.readouterr().err
    assert said.count("could not be written (File too large); training goes on") == 1
    assert run.checkpoint["epoch"] == 3
    best = torch.load(run.best, weights_only=True)
    assert best["progress"]["metrics"]["val/accuracy"] == run.results["best"]


@pytest.mark.slow
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
        return {"share": Fraction(1, 2)}


def test_a_checkpoint_that_could_not_be_loaded_ends_the_run_at_its_first_epoch(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        train(*SHORT, "--trainer.max_epochs=3", f"--trainer.callbacks=[{Odd.__module__}.Odd]")
    assert left.value.code == 2
    said = capsys.readouterr()
    assert "best.ckpt could not be read again: it holds code or an object (fractions.Fraction)" in said.err
    assert "epoch 1/2" not in said.out


class NaNAtFirst(Callback):
    """Spoils the first epoch's validation."""

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        if trainer.current_epoch == 0:
            batch[0].fill_(torch.nan)


@pytest.mark.slow
def test_a_figure_that_is_no_number_is_not_the_best(train: Callable[..., Run]) -> None:
    monitor = ("--checkpoint.monitor=val/loss", "--checkpoint.mode=min", "--trainer.max_epochs=2")
    run = train(*SHORT, *monitor, f"--trainer.callbacks=[{{class_path: {__name__}.NaNAtFirst}}]")
    assert run.results["best"] == run.results["metrics"]["val/loss"] > 0


EMA = "--weight_average=callbacks.ema.EMA"
SWA = ("--weight_average=callbacks.swa.SWA", "--weight_average.start=1")
MIDDLE = {
    "a fraction that divides no epoch": (["--trainer.val_check_interval=0.4"], [4, 8, 15, 19]),
    "batches across epochs": (["--trainer.val_check_interval=15", "--trainer.check_val_every_n_epoch=null"], [15]),
    "steps of several batches": (
        ["--trainer.val_check_interval=4", "--trainer.accumulate_grad_batches=3"],
        [2, 3, 6, 7],
    ),
    "every second epoch": (["--trainer.check_val_every_n_epoch=2"], [22]),
    "an end within an epoch": (["--trainer.max_steps=14"], [11, 14]),
    "the same in an epoch that is not validated": (
        ["--trainer.max_steps=14", "--trainer.check_val_every_n_epoch=3"],
        [14],
    ),
    "an end where a validation is due": (["--trainer.max_steps=16", "--trainer.val_check_interval=5"], [5, 10, 16]),
    "an end with an epoch": (["--trainer.max_epochs=-1", "--trainer.max_steps=11"], [11]),
    "an average of steps": ([EMA, "--weight_average.decay=0.8", "--trainer.val_check_interval=4"], [4, 8, 15, 19]),
    "an average of epochs": ([*SWA, "--trainer.val_check_interval=4"], [4, 8, 15, 19, 22]),
}


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "steps"), MIDDLE.values(), ids=MIDDLE)
def test_the_best_has_the_weights_that_scored(
    train: Callable[..., Run], digits: Digits, flags: list[str], steps: list[int]
) -> None:
    run = train(
        *("--data.batch_size=128", "--early_stopping=null", "--trainer.max_epochs=2", "--checkpoint.monitor=val/loss"),
        *("--model.optimizer.lr=0.03", "--model.scheduler=null", *flags),
    )
    losses = {int(row["step"]) + 1: float(row["val/loss"]) for row in rows(run.folder) if row["val/loss"]}
    assert list(losses) == steps
    # Once the epochs are averaged, the best is one of the averages.
    candidates = {step: loss for step, loss in losses.items() if step > 19 or "SWA" not in flags[0]}
    best = read_checkpoint(run.best)
    assert run.results["best"] == losses[best["global_step"]] == min(candidates.values())
    assert figures(Classifier.load_from_checkpoint(run.best), digits, "val")["val/loss"] == run.results["best"]


@pytest.mark.slow
def test_what_is_restored_is_dropped_where_another_metric_decides(
    train: Callable[..., Run], resume: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    plateau = ("--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss")
    run = train(
        *("--data.batch_size=256", "--trainer.max_epochs=2", *plateau),
        *("--checkpoint.monitor=val/loss", "--early_stopping.monitor=val/loss"),
    )
    assert run.results["mode"] == "min"
    before = run.results["best"]
    shutil.copytree(run.folder, untouched := run.folder.parent / "untouched")
    capsys.readouterr()
    flags = [f"--{key}.monitor=val/accuracy" for key in ("checkpoint", "early_stopping", "model.scheduler")]
    run = resume(Run(run.folder), *flags, "--trainer.max_epochs=3")
    said = capsys.readouterr().out
    for what in ("the choice of the best checkpoint", "the wait for a plateau"):
        assert f"{what} starts again: metric and mode changed" in said
    facts = {name: run.results[name] for name in ("monitor", "mode", "best")}
    best = read_checkpoint(run.best)
    accuracy = best["progress"]["metrics"]["val/accuracy"]
    assert facts == {"monitor": "val/accuracy", "mode": "max", "best": accuracy} != {"best": before}
    assert best["epoch"] == 3
    assert best["lr_schedulers"][0]["best"] == pytest.approx(accuracy)
    assert (best["lr_schedulers"][0]["mode"], best["lr_schedulers"][0]["num_bad_epochs"]) == ("max", 0)

    # A run that is over has nothing that the new metric could have chosen.
    over = resume(Run(untouched), "--checkpoint.monitor=val/accuracy")
    assert over.results["best"] is None
    assert over.results["checkpoint"] == "checkpoints/last.ckpt"
