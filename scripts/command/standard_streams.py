"""Standard output and error, whose loss does not end a command early."""

import codecs
import errno
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, TextIO

from core.names import escape
from core.user_error import CommandError

# Errors of writing when the reader of a pipe has ended, and when a terminal was closed.
READER_GONE = (errno.EPIPE, errno.EIO)


class LostOutputError(CommandError):
    """Standard output could not be written, and somebody may read it."""


class _Stream(FileIO):
    """Drops data that cannot be written, and keeps the error."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            return memoryview(data).nbytes


def prepare_standard_streams() -> None:
    """Drop data that cannot be written, and escape characters that the terminal's encoding lacks."""
    codecs.register_error("escape", escape)
    sys.stdout, sys.stderr = _prepared(sys.stdout), _prepared(sys.stderr)


def _prepared(stream: TextIO) -> TextIO:
    if not isinstance(stream, TextIOWrapper):
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if type(raw) is FileIO and raw.fileno() in (1, 2):
        stream.flush()
        is_buffered = raw is not stream.buffer
        raw = _Stream(raw.fileno(), "w", closefd=False)
        stream = TextIOWrapper(
            BufferedWriter(raw) if is_buffered else raw,
            stream.encoding,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
    stream.reconfigure(errors="escape")
    return stream


def output_failure() -> OSError | None:
    """Return the error of writing standard output, if there was one."""
    if sys.stdout:
        sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    failure: OSError | None = getattr(getattr(buffer, "raw", buffer), "failure", None)
    return failure


def check_standard_output() -> None:
    """Raise `LostOutputError` if output was lost; a reader that has ended wants none."""
    failure = output_failure()
    if failure and failure.errno not in READER_GONE:
        raise LostOutputError(f"Standard output could not be written ({failure.strerror}) and is not whole.")
