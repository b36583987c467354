"""Replacing a file whole or not at all, whenever the process or the machine dies."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a file beside its target, force it to the disk, and give it the target's name.

    Args:
        target: The file that is to be there in the end.

    Yields:
        The file to write, in the same folder.

    Raises:
        OSError: If it cannot be written; what was there before is kept.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_file(target: Path, content: str | bytes) -> None:
    """Write a file whole or not at all.

    Args:
        target: Where to; a file that is there is replaced.
        content: What; text is written in UTF-8.

    Raises:
        OSError: If it cannot be written; what was there before is kept.
    """
    with replacing(target) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that its copy is there whole or not at all.

    Args:
        source: The file.
        target: The copy, in whose place another may be.

    Raises:
        OSError: If it cannot be read or written.
    """
    with replacing(target) as part:
        shutil.copyfile(source, part)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder.

    Args:
        folder: The folder, into which nobody else is writing.
    """
    for part in folder.glob(".*"):
        if re.fullmatch(r"\..+\.\d+", part.name):
            part.unlink()
