import io
import sys
from argparse import ArgumentTypeError
from bdb import BdbQuit

import pytest
import torch

from core.user_error import CommandError, UserError
from scripts.command.boundary import report_errors, whole_number


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "The GPU's memory is full: use a smaller --data.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Memory is full: use a smaller --data.batch_size"),
        (MemoryError(), "Memory is full: use a smaller --data.batch_size"),
    ],
)
def test_full_memory_ends_with_what_to_do(capsys: pytest.CaptureFixture[str], error: Exception, words: str) -> None:
    with pytest.raises(SystemExit) as left, report_errors():
        raise error
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {words}")
    assert said.count("\n") == 1


def test_what_else_goes_wrong_is_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="the third row"), report_errors():
        raise RuntimeError("the third row is missing")


def test_what_a_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with report_errors():
        print("runs/caf\udce9/Käse")
    terminal.flush()
    assert terminal.buffer.getvalue() == b"runs/caf\\udce9/K\\xe4se\n"


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("Give\x1b it."), 2), (CommandError("The disk is\x1b full."), 1)]
)
def test_an_expected_error_is_a_sentence_and_a_status(
    capsys: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    with pytest.raises(SystemExit) as left, report_errors():
        raise error
    assert left.value.code == status
    assert capsys.readouterr().err == f"error: {error}\n".replace("\x1b", "\\x1b")


def test_a_debugger_that_is_left_ends_the_command_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, report_errors():
        raise BdbQuit
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("error: The debugger was left, which ends the command")


def test_is_a_positive_whole_number() -> None:
    assert whole_number("12") == 12
    assert whole_number("0", least=0) == 0
    for text in ("0", "-1", "1.5", "many", "", "99999999999"):
        with pytest.raises(ArgumentTypeError, match="is no whole number of at least 1"):
            whole_number(text)
