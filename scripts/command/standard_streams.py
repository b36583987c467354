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
        lines = stream.line_buffering or stream.write_through
        buffer = BufferedWriter(_Stream(raw.fileno(), "w", closefd=False))
        stream = TextIOWrapper(buffer, stream.encoding, line_buffering=lines)
    stream.reconfigure(errors="escape")
    return stream


def check_standard_output() -> bool:
    """Return False if the reader of standard output has ended; raise an error if output was lost to anybody else."""
    if sys.stdout:
        sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    failure: OSError | None = getattr(getattr(buffer, "raw", buffer), "failure", None)
    if failure and failure.errno not in READER_GONE:
        raise CommandError(f"Standard output could not be written ({failure.strerror}) and is not whole.")
    return failure is None
