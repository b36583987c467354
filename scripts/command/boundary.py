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

from callbacks.run.peers import LOST
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
    except UserError as error:
        _exit(2, str(error))
    except FloatingPointError as error:  # all processes of a run stop for it, and the first one says why
        rank_zero = sys.modules.get("lightning.fabric.utilities.rank_zero")
        _exit(1, str(error) if rank_zero is None or rank_zero.rank_zero_only.rank == 0 else "")
    except CommandError as error:
        _exit(1, str(error))
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        _exit(1, f"{error.filename or 'A file'} could not be written: {error.strerror}; free space there.")
    except (RuntimeError, MemoryError) as error:
        lost = re.search("connection (reset|closed|refused)", str(error), re.IGNORECASE)
        if not (sentence := _out_of_memory(error) or (LOST if lost else "")):
            raise
        _exit(1, sentence)
    except BdbQuit:
        _exit(1, "A debugger was left, and the command with it; a breakpoint needs somebody at the terminal.")
    except KeyboardInterrupt:
        sys.exit(130)


def _exit(status: int, sentence: str) -> None:
    if sentence:
        print(f"error: {escape_name(sentence)}", file=sys.stderr)
    sys.exit(status)


def _out_of_memory(error: BaseException) -> str:
    """Advice if memory has run out, else nothing."""
    smaller = "use a smaller --data.batch_size, with --trainer.accumulate_grad_batches for steps of as many images"
    if isinstance(error, torch.OutOfMemoryError):
        return f"The GPU's memory is full: {smaller}, or --trainer.precision bf16-mixed."
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return f"Memory is full: {smaller}, or fewer --data.num_workers."
    return ""
