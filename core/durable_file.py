"""Write files and folders atomically: after a crash, the old or the new content is there, never a part."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk is full, or the quota or the file's limit is reached

PART = r"\..+\.\d+"  # names of temporary files, as `part_of` makes them


def part_of(target: Path) -> Path:
    """Return the temporary file beside a target, which this process writes and then renames."""
    return target.with_name(f".{target.name}.{os.getpid()}")


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Yield a temporary file to write, for `publish`; delete it on error. An OSError names the target."""
    part = target if re.fullmatch(PART, target.name) else part_of(target)
    part.unlink(missing_ok=True)  # a killed process with this number may have left it, as a link to another file
    try:
        yield part
    except BaseException as error:
        part.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save hides the file's error
        if isinstance(cause, OSError) and cause.errno:
            raise OSError(cause.errno, cause.strerror, str(target)) from error
        raise


def publish(part: Path, target: Path) -> None:
    """Flush a temporary file to the disk and rename it to its target."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    part.unlink(missing_ok=True)  # rename keeps both names if they are links to one file
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary file to write; at the end of the block, rename it to the target atomically."""
    with unfinished(target) as part:
        yield part
        publish(part, target)


def replace_file(target: Path, content: str | bytes) -> None:
    """Write a file atomically."""
    with replacing(target) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def link_whole(source: Path, target: Path) -> None:
    """Make the target a hard link to a file, or a copy if the file system has no hard links."""
    with replacing(target) as part:
        try:
            os.link(source.resolve(), part)  # resolved, because a hard link to a symbolic link may dangle
        except OSError:
            shutil.copyfile(source, part)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of killed processes from a folder."""
    for part in folder.glob(".*"):
        if re.fullmatch(PART, part.name):
            part.unlink()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; rename it to `folder` on success, delete it on error.

    Only one process may write a folder at a time. The temporary folder of a killed process is deleted first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for path in [file for file in part.rglob("*") if file.is_file()]:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def note_use(folder: Path) -> None:
    """Set a folder's modification time to now, to record its last use; a read-only folder stays as it is."""
    with suppress(OSError):
        os.utime(folder)


def check_space(folder: Path, needed: int) -> None:
    """Raise OSError unless the disk has the needed bytes free; call it before the work that fills them."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")
