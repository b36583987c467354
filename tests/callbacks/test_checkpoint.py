import shutil
from collections.abc import Callable

import torch

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
