"""Standard output and error that do not end a command early when they are closed or full."""

import errno
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, TextIO

from core.user_error import CommandError

# Errors of writing to a pipe that nobody reads any more, and to a terminal that was closed.
READER_GONE = (errno.EPIPE, errno.EIO)


class _Stream(FileIO):
    """Drops data that cannot be written, and records the error."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            return memoryview(data).nbytes


def prepare_standard_streams() -> None:
    """Make stdout and stderr drop data that cannot be written, and escape characters that their encoding lacks."""
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
    stream.reconfigure(errors="backslashreplace")
    return stream


def check_standard_output() -> bool:
    """Return False if nobody reads standard output any more; raise CommandError if output was lost otherwise."""
    if sys.stdout:
        sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    failure: OSError | None = getattr(getattr(buffer, "raw", buffer), "failure", None)
    if failure and failure.errno not in READER_GONE:
        raise CommandError(f"Standard output could not be written ({failure.strerror}) and is incomplete.")
    return failure is None
