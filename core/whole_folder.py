"""Write a folder whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write files into. It becomes `folder` at the end of the block, or is removed if that fails.

    Only one process may write the same folder at a time; files that a killed process has left are removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for path in [file for file in part.rglob("*") if file.is_file()]:
            with path.open("rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def note_use(folder: Path) -> None:
    """Let a folder's time of modification say when it was used last, if that may be written."""
    with suppress(OSError):
        os.utime(folder)


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk has room, before the work that fills it."""
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")
