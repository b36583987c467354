import io
import subprocess
import sys
from bdb import BdbQuit

import pytest
import torch

from core.user_error import CommandError, UserError
from scripts.command.boundary import mistakes_in_one_sentence


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "The GPU's memory is full: use a smaller --data.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Memory is full: use a smaller --data.batch_size"),
        (MemoryError(), "Memory is full: use a smaller --data.batch_size"),
    ],
)
def test_full_memory_ends_with_what_to_do(capsys: pytest.CaptureFixture[str], error: Exception, words: str) -> None:
    with pytest.raises(SystemExit) as left, mistakes_in_one_sentence():
        raise error
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {words}")
    assert said.count("\n") == 1


def test_what_else_goes_wrong_is_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="the third row"), mistakes_in_one_sentence():
        raise RuntimeError("the third row is missing")


def test_what_a_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with mistakes_in_one_sentence():
        print("runs/caf\udce9/Käse")
    terminal.flush()
    assert terminal.buffer.getvalue() == b"runs/caf\\xe9/K\\xe4se\n"


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("Give\x1b it."), 2), (CommandError("The disk is\x1b full."), 1)]
)
def test_an_expected_error_is_a_sentence_and_a_status(
    capsys: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    with pytest.raises(SystemExit) as left, mistakes_in_one_sentence():
        raise error
    assert left.value.code == status
    assert capsys.readouterr().err == f"error: {error}\n".replace("\x1b", "\\x1b")


@pytest.mark.slow
def test_lightnings_own_error_is_a_users_mistake_and_lightning_is_not_imported_for_it() -> None:
    code = """
import sys
from bdb import BdbQuit
from scripts.command.boundary import mistakes_in_one_sentence
assert "lightning" not in sys.modules
from lightning.fabric.utilities.exceptions import MisconfigurationException
with mistakes_in_one_sentence():
    raise MisconfigurationException("Choose one.")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: Choose one.\n")


def test_a_debugger_that_is_left_ends_the_command_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, mistakes_in_one_sentence():
        raise BdbQuit
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("error: A debugger was left, and the command with it")
