from collections.abc import Callable
from pathlib import Path

from tests.conftest import Run


def test_stops_when_nothing_gets_better(train: Callable[..., Run]) -> None:
    run = train("--early_stopping.patience=2", "--model.optimizer.lr=0", "--trainer.max_epochs=9")
    assert run.results["epochs"] == 3


def test_can_be_left_out(train: Callable[..., Run]) -> None:
    run = train("--early_stopping=null", "--model.optimizer.lr=0", "--trainer.max_epochs=12", "--data.batch_size=512")
    assert run.results["epochs"] == 12


def test_says_which_figures_there_are(refused: Callable[..., str], tmp_path: Path, data_root: Path) -> None:
    error = refused("fit", "--early_stopping.monitor=val/f1", "--runs", tmp_path, "--data.root", data_root)
    assert "early_stopping.monitor is val/f1, which is not logged; choose from val/accuracy, val/loss." in error
