import shutil
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

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


class NaNAtFirst(Callback):
    """Spoils the first epoch's validation."""

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        if trainer.current_epoch == 0:
            batch[0].fill_(torch.nan)


def test_a_figure_that_is_no_number_is_not_the_best(train: Callable[..., Run]) -> None:
    monitor = ("--checkpoint.monitor=val/loss", "--checkpoint.mode=min", "--trainer.max_epochs=2")
    run = train(*SHORT, *monitor, f"--trainer.callbacks=[{{class_path: {__name__}.NaNAtFirst}}]")
    assert run.results["best"] == run.results["metrics"]["val/loss"] > 0
