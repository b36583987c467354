"""The edge of every command: errors become one sentence and an exit status, `--trust` names packages."""

import argparse
import re
import signal
import sys
from bdb import BdbQuit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from core import leave_at_once
from core.durable_file import NO_SPACE
from core.names import escape_name
from core.user_error import CommandError, UserError
from models.serialization.class_path import trust
from scripts.command.expansion import to_path
from scripts.command.silence import silence_libraries
from scripts.command.standard_streams import check_standard_output, prepare_standard_streams

# Errors of a run that are no mistake in its configuration.
FAULTS = (CommandError, FloatingPointError)


class CommandParser(argparse.ArgumentParser):
    """Prints a description as it is written, and raises one sentence on a wrong command line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise the sentence."""
        raise UserError(f"{message}; see {self.prog} --help.")


def whole_number(text: str, least: int = 1) -> int:
    """Parse a whole number, for argparse's `type`."""
    if not text.isdecimal() or not least <= int(text) <= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return int(text)


# Arguments of commands that take a checkpoint, for argparse's `parents`: the flag alone, and with one checkpoint.
TRUST = CommandParser(add_help=False)
TRUST.add_argument(
    "--trust", type=trust, action="append", metavar="PACKAGE", help="a package whose classes a checkpoint may name"
)
CHECKPOINT = CommandParser(add_help=False, parents=[TRUST])
CHECKPOINT.add_argument("checkpoint", type=to_path, metavar="CHECKPOINT", help="a checkpoint, or the folder of a run")


@contextmanager
def mistakes_in_one_sentence() -> Iterator[None]:
    """Silence libraries; a user's mistake ends in one sentence and exit status 2, another known error in status 1."""
    silence_libraries()
    prepare_standard_streams()
    if signal.getsignal(signal.SIGINT) is leave_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        check_standard_output()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not (sentence := _sentence(error)):
            raise
        rank_zero = sys.modules.get("lightning.fabric.utilities.rank_zero")
        # All processes of a run stop for a figure that is no number, and the first one says why.
        if rank_zero is None or rank_zero.rank_zero_only.rank == 0 or not isinstance(error, FloatingPointError):
            print(f"error: {escape_name(sentence)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


def _sentence(error: Exception) -> str:
    """What a command says of a known error."""
    smaller = "use a smaller --data.batch_size, with --trainer.accumulate_grad_batches for steps of as many images"
    text = str(error)
    if isinstance(error, UserError | CommandError | FloatingPointError):
        return text
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"{error.filename or 'A file'} could not be written: {error.strerror}; free space there."
    if isinstance(error, torch.OutOfMemoryError):
        return f"The GPU's memory is full: {smaller}, or --trainer.precision bf16-mixed."
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text):
        return f"Memory is full: {smaller}, or fewer --data.num_workers."
    if isinstance(error, RuntimeError) and re.search("connection (reset|closed|refused)", text, re.IGNORECASE):
        from callbacks.run.peers import LOST

        return LOST
    if isinstance(error, BdbQuit):
        return "A debugger was left, and the command with it; a breakpoint needs somebody at the terminal."
    return ""
