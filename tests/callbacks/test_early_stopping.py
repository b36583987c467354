from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run


@pytest.mark.slow
def test_stops_when_nothing_gets_better(train: Callable[..., Run]) -> None:
    run = train("--early_stopping.patience=2", "--model.optimizer.lr=0", "--trainer.max_epochs=9")
    assert run.results["epochs"] == 3


@pytest.mark.slow
def test_without_patience_stops_at_the_first_epoch_that_is_no_better(train: Callable[..., Run]) -> None:
    run = train("--early_stopping.patience=0", "--model.optimizer.lr=0", "--trainer.max_epochs=9")
    assert run.results["epochs"] == 2


@pytest.mark.parametrize("flag", ["patience=-1", "min_delta=-0.1"])
def test_refuses_what_is_negative(refused: Callable[..., str], flag: str) -> None:
    name, _, value = flag.partition("=")
    assert f"early_stopping.{name} is {value}; give a number of at least 0" in refused(
        "fit", f"--early_stopping.{flag}"
    )


def test_has_nothing_to_say_before_the_first_validation(train: Callable[..., Run]) -> None:
    assert train("--trainer.max_steps=1").results["steps"] == 1


@pytest.mark.slow
def test_can_be_left_out(train: Callable[..., Run]) -> None:
    run = train("--early_stopping=null", "--model.optimizer.lr=0", "--trainer.max_epochs=12", "--data.batch_size=512")
    assert run.results["epochs"] == 12


def test_says_which_figures_there_are(refused: Callable[..., str], tmp_path: Path, data_root: Path) -> None:
    error = refused("fit", "--early_stopping.monitor=val/f1", "--runs", tmp_path, "--data.root", data_root)
    figures = "train/accuracy, train/loss, val/accuracy, val/loss"
    assert f"early_stopping.monitor is val/f1, which is not logged; choose from {figures}." in error


@pytest.mark.slow
def test_can_watch_any_figure_of_the_epoch(train: Callable[..., Run]) -> None:
    run = train(
        *("--early_stopping.monitor=train/loss", "--early_stopping.mode=min", "--early_stopping.patience=1"),
        *("--early_stopping.min_delta=100", "--trainer.max_epochs=5"),
    )
    assert run.results["epochs"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("val/loss",), ("train/loss", "--trainer.val_check_interval=0.5")])
def test_a_loss_that_falls_stops_nothing_and_is_looked_at_when_it_is_measured(
    train: Callable[..., Run], flags: tuple[str, ...]
) -> None:
    monitor, *more = flags
    run = train(f"--early_stopping.monitor={monitor}", *more, "--early_stopping.patience=1", "--trainer.max_epochs=3")
    assert run.results["epochs"] == 3
    (state,) = (state for key, state in run.checkpoint["callbacks"].items() if key.startswith("EarlyStopping"))
    assert float(state["best_score"]) == run.results["metrics"][monitor]
