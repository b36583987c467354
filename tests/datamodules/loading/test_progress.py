import io

import pytest
from rich.console import Console

from datamodules.loading import progress as module
from datamodules.loading.progress import progress


def test_draws_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    monkeypatch.setattr(module, "get_console", lambda: Console(file=drawn, force_terminal=True, width=100))
    with progress("Reading", 30) as advance:
        for _ in range(3):
            advance(10)
    assert "Reading" in drawn.getvalue()
    assert "30/30" in drawn.getvalue()


def test_is_silent_for_short_work_and_writes_lines_for_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "get_console", lambda: Console(file=io.StringIO(), force_terminal=False))
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress("Reading", 400) as advance:
        for _ in range(4):
            now += 10
            advance(100)
    assert capsys.readouterr().out == "Reading  300/400  10/s  0:00:10 left\n"
    with progress("Reading", 400, aside=True) as advance:
        now += 40
        advance(100)
    assert capsys.readouterr() == ("", "Reading  100/400  2/s  0:02:00 left\n")
