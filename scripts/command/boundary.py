"""What all commands share: argument parsing, and errors that end a command with one line and an exit status."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from core import leave_at_once
from core.names import escape_name
from core.user_error import UserError
from models.serialization.class_path import trust
from scripts.command.expansion import to_path
from scripts.command.silence import silence_libraries
from scripts.command.standard_streams import check_standard_output, prepare_standard_streams


class CommandParser(argparse.ArgumentParser):
    """Prints the description as it is written, and raises UserError on a wrong command line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; see {self.prog} --help.")


def whole_number(text: str, least: int = 1) -> int:
    """Parse a whole number, for argparse's `type`."""
    if not text.isdecimal() or not least <= int(text) <= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return int(text)


# For argparse's `parents`, in commands that read checkpoints: --trust alone, and --trust with one checkpoint.
TRUST = CommandParser(add_help=False)
TRUST.add_argument(
    "--trust", type=trust, action="append", metavar="PACKAGE", help="a package whose classes a checkpoint may name"
)
CHECKPOINT = CommandParser(add_help=False, parents=[TRUST])
CHECKPOINT.add_argument("checkpoint", type=to_path, metavar="CHECKPOINT", help="a checkpoint, or the folder of a run")


@contextmanager
def report_errors() -> Iterator[None]:
    """Silence libraries, and print an expected error as one line.

    Exits with status 2 for a UserError, 1 for another expected error and 130 for Ctrl-C. Other errors pass through,
    with their traceback.
    """
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
        from scripts.command.error_message import error_message

        if not (message := error_message(error)):
            raise
        rank_zero = sys.modules.get("lightning.fabric.utilities.rank_zero")
        # A loss that is not finite stops all ranks; only rank 0 prints it.
        if rank_zero is None or rank_zero.rank_zero_only.rank == 0 or not isinstance(error, FloatingPointError):
            print(f"error: {escape_name(message)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
