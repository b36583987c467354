"""A file that appears whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from lightning.fabric.utilities.exceptions import MisconfigurationException


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write to, which takes its place at the end and is removed if anything fails.

    Args:
        path: Where to; a file that is there is replaced then.

    Raises:
        OSError: If it cannot be written; a file that was there before is kept.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def refuse_output(output: Path, overwrite: bool) -> None:
    """See that a file can be written.

    Args:
        output: The file.
        overwrite: Whether it may be there.

    Raises:
        MisconfigurationException: If it cannot, or is there.
    """
    if output.exists() and not overwrite:
        raise MisconfigurationException(f"{output} is there already; replace it with --overwrite, or give --output.")
    try:
        if output.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise MisconfigurationException(
            f"{output} cannot be written: {error.strerror or error}; choose another file with --output."
        ) from error
