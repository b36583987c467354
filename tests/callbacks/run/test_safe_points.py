import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.run import interruption, safe_points
from callbacks.run.safe_points import add_safe_points, stands_between_epochs, stands_between_steps
from tests.callbacks.test_curves import points, rows
from tests.conftest import Run
from tests.faults.case import timeless_rows

SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"
FLAGS = ("--trainer.max_epochs=3", "--data.batch_size=128", "--trainer.log_every_n_steps=1")


class Notes(Callback):
    """Notes where it is called."""

    def __init__(self) -> None:
        self.places: list[tuple[int, int, bool]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        add_safe_points(trainer)
        loop = trainer.fit_loop
        add_safe_points(trainer)
        assert trainer.fit_loop is loop

    def on_safe_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert stands_between_steps(trainer)
        self.places.append((trainer.current_epoch, trainer.global_step, stands_between_epochs(trainer)))

    def on_train_batch_end(self, trainer: Trainer, *rest: object) -> None:
        assert not stands_between_steps(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *rest: object) -> None:
        assert not stands_between_epochs(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print(self.places)


@pytest.mark.slow
def test_they_are_after_each_batch_and_each_epoch(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    train("--trainer.max_epochs=2", "--data.batch_size=500", f"--trainer.callbacks=[{Notes.__module__}.Notes]")
    places = [(0, 1, False), (0, 2, False), (1, 3, True), (1, 4, False), (1, 5, False), (2, 6, True)]
    assert str(places) in capsys.readouterr().out


@pytest.mark.slow
def test_there_is_none_between_batches_whose_gradients_belong_together(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--trainer.max_epochs=1", "--data.batch_size=250", "--trainer.accumulate_grad_batches=4")
    train(*flags, f"--trainer.callbacks=[{Notes.__module__}.Notes]")
    assert str([(0, 1, False), (1, 2, True)]) in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("nth", [11, 5], ids=["epoch's last batch", "batch before a validation within an epoch"])
@pytest.mark.parametrize("scheduler", ["lightning.pytorch.cli.ReduceLROnPlateau", None])
def test_a_checkpoint_from_within_a_batch_goes_on_with_the_validation_that_was_due(
    train: Callable[..., Run], tmp_path: Path, nth: int, scheduler: str | None
) -> None:
    plateau = ("--model.scheduler.monitor=val/loss", "--model.scheduler.patience=0") if scheduler else ()
    flags = (*FLAGS, "--trainer.val_check_interval=5", f"--model.scheduler={scheduler or 'null'}", *plateau)
    steps = tmp_path / "steps"
    saver = f"{{class_path: {SAVER}, init_args: {{every_n_train_steps: {nth}, save_top_k: -1, dirpath: {steps}}}}}"
    whole = train(*flags, f"--trainer.callbacks=[{saver}]")
    place = min(steps.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    resumed = train("--ckpt_path", str(place), "--trainer.callbacks=null")
    assert resumed.results["metrics"] == whole.results["metrics"]
    assert resumed.checkpoint["lr_schedulers"] == whole.checkpoint["lr_schedulers"]
    expected = {tag: [p for p in curve if p[0] >= nth - 1] for tag, curve in points(whole.folder).items()}
    found = points(resumed.folder)
    assert found["val/loss"] == expected["val/loss"]
    assert found["train/loss"] == expected["train/loss"]
    assert rows(resumed.folder)[-1] == rows(whole.folder)[-1]


class Remembers(Callback):
    """Looks at the last validation's figures, where a run is taken up."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise AssertionError("a validation has been tried out long ago")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print(f"val/loss was {float(trainer.callback_metrics['val/loss'])}")


@pytest.mark.slow
def test_a_run_that_goes_on_between_epochs_knows_the_last_validation(
    train: Callable[..., Run], resume: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("--data.batch_size=256", "--trainer.max_epochs=1")
    before = run.results["metrics"]["val/loss"]
    resume(run, f"--trainer.callbacks=[{Remembers.__module__}.Remembers]", "--trainer.max_epochs=2")
    assert f"val/loss was {before}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 11, 16])
def test_a_checkpoint_of_lightnings_from_a_validation_repeats_nothing(
    train: Callable[..., Run], resume: Callable[..., Run], tmp_path: Path, step: int
) -> None:
    saver = (
        f"{{class_path: {SAVER}, init_args: {{monitor: val/loss, mode: min, save_top_k: -1, filename: '{{step}}'}}}}"
    )
    flags = (*FLAGS, "--trainer.val_check_interval=5", "--early_stopping.patience=2", "--checkpoint.monitor=val/loss")
    whole = train(*flags, f"--trainer.callbacks=[{saver}]", "--model.optimizer.lr=0.03")
    broken = Run(tmp_path / "broken")
    shutil.copytree(whole.folder, broken.folder)
    for file in (broken.folder / "checkpoints").iterdir():
        if file.name != f"step={step}.ckpt":
            file.unlink()
    assert resume(broken, "--trainer.callbacks=null").results["metrics"] == whole.results["metrics"]
    assert timeless_rows(broken.folder) == timeless_rows(whole.folder)
    assert broken.checkpoint["global_step"] == whole.checkpoint["global_step"]


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "is_said"), [(14, True), (22, False)])
def test_a_run_that_ended_within_an_epoch_says_what_it_has_counted(
    train: Callable[..., Run],
    resume: Callable[..., Run],
    capsys: pytest.CaptureFixture[str],
    steps: int,
    is_said: bool,
) -> None:
    run = train("--data.batch_size=128", f"--trainer.max_steps={steps}", "--model.scheduler=null")
    resume(run, "--trainer.max_steps=23")
    said = f"note: the run had ended at step {steps}, within epoch 1; its validation there has counted for the best"
    assert (said in capsys.readouterr().out) == is_said


OVERRIDDEN = {
    safe_points._Epochs: ("on_load_checkpoint", "done", "_can_stop_early", "run", "reset", "on_advance_end"),
    safe_points._Batches: (
        *("_is_validation_done", "_accumulated_batches_reached", "_should_accumulate", "reset", "advance"),
        *("_should_check_val_fx", "on_advance_end", "_is_training_done", "on_save_checkpoint", "on_load_checkpoint"),
    ),
    safe_points._Steps: ("_make_zero_grad_fn",),
}
"""Methods of Lightning's private classes that are overridden or called."""


@pytest.mark.parametrize("class_", OVERRIDDEN)
def test_lightning_still_has_what_is_overridden_of_it(class_: type) -> None:
    (lightnings,) = class_.__bases__
    missing = [name for name in OVERRIDDEN[class_] if not hasattr(lightnings, name)]
    assert not missing, f"this release of Lightning has no {missing} in {lightnings}; look at how it does that now"


def test_lightning_asks_for_signals_what_is_answered() -> None:
    connector = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)._signal_connector
    for name in ("register_signal_handlers", "teardown", "received_sigterm"):
        assert hasattr(connector, name), f"this release of Lightning has no {name}; look at how it does that now"
        assert hasattr(interruption._Signals(), name)
