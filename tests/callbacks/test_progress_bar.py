from collections.abc import Callable

import pytest
from rich import get_console

from callbacks.progress_bar import ProgressBar
from tests.conftest import Run


def test_writes_a_line_for_each_epoch_where_there_is_no_terminal(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    train("--trainer.max_epochs=2", "--data.batch_size=256")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    for line in lines:
        assert "train/loss" in line
        assert "val/accuracy" in line
        assert "batches/s" in line
        assert line.endswith("left")


def test_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_console(), "_force_terminal", True)
    assert ProgressBar().is_enabled
    monkeypatch.setattr(get_console(), "_force_terminal", False)
    assert ProgressBar().is_disabled
