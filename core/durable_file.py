"""Write a file or a folder whole or not at all, whenever the process or the machine dies."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # error numbers of a disk, a quota or a file that can take no more

PART = r"\..+\.\d+"  # names of files that are being written


def part_of(target: Path) -> Path:
    """The file beside a target that is written first, then renamed."""
    return target.with_name(f".{target.name}.{os.getpid()}")


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Write a file beside its target, for `publish`; if that fails, it is removed."""
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
    """Force a file to the disk and give it its name."""
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
    """Write a file beside its target, force it to the disk, and give it the target's name."""
    with unfinished(target) as part:
        yield part
        publish(part, target)


def replace_file(target: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(target) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def link_whole(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no hard link for it, a copy."""
    with replacing(target) as part:
        try:
            os.link(source.resolve(), part)  # not of a link itself
        except OSError:
            shutil.copyfile(source, part)


def remove_leftovers(folder: Path) -> None:
    """Remove files that killed writers have left in a folder."""
    for part in folder.glob(".*"):
        if re.fullmatch(PART, part.name):
            part.unlink()


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
