"""Replacing a file whole or not at all, whenever the process or the machine dies."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota or a file that can take no more."""

PART = r"\..+\.\d+"
"""Names of files that are being written."""


def part_of(target: Path) -> Path:
    """The file beside a target that is written first, then renamed."""
    return target.with_name(f".{target.name}.{os.getpid()}")


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Write a file beside its target, to be given to `publish`; if that fails, it is removed.

    Args:
        target: The file that is to be there in the end, or its `part_of`, which is written as it is.

    Yields:
        The file to write, in the same folder.

    Raises:
        OSError: If it cannot be written; it names the target.
    """
    part = target if re.fullmatch(PART, target.name) else part_of(target)
    part.unlink(missing_ok=True)  # it may be a link to another file, left by a process of this number
    try:
        yield part
    except BaseException as error:
        part.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save hides its file's error
        if isinstance(cause, OSError) and cause.errno:
            raise OSError(cause.errno, cause.strerror, str(target)) from error
        raise


def publish(part: Path, target: Path) -> None:
    """Force a file to the disk and give it its name.

    Args:
        part: The file, as `unfinished` yields it.
        target: Its name; what was there before is replaced.

    Raises:
        OSError: If the disk does not take it.
    """
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    part.unlink(missing_ok=True)  # of two links to one file, rename keeps both
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a file beside its target, force it to the disk, and give it the target's name.

    Args:
        target: The file that is to be there in the end.

    Yields:
        The file to write, in the same folder.

    Raises:
        OSError: If it cannot be written; it names the target, and what was there before is kept.
    """
    with unfinished(target) as part:
        yield part
        publish(part, target)


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


def link_whole(source: Path, target: Path) -> None:
    """Give a file a second name in its folder; where the file system has no hard links, a copy.

    Args:
        source: The file, which is only ever replaced, never changed in place.
        target: The second name, which another file may have.

    Raises:
        OSError: If it cannot be given.
    """
    with replacing(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder.

    Args:
        folder: The folder, into which nobody else is writing.
    """
    for part in folder.glob(".*"):
        if re.fullmatch(PART, part.name):
            part.unlink()
