"""Find files, folders and images in a folder."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.decoding.image_file import holds_numbers, is_image

# Files and folders that operating systems leave behind. Hidden ones, whose names begin with `.`, are junk as well.
JUNK = frozenset(
    (
        *("__MACOSX", "__pycache__", "lost+found", "System Volume Information", "Thumbs.db", "desktop.ini"),
        *("$RECYCLE.BIN", "@eaDir", "@Recycle", "#recycle"),
    )
)


def is_junk(name: str) -> bool:
    """Return True for the name of a hidden file or folder, or of one that an operating system leaves behind."""
    return name.startswith(".") or name in JUNK


def files_in(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files that lie directly in a folder, without junk, in no particular order."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not is_junk(entry.name) and not entry.is_dir())


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders directly in a folder, without junk, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_junk(entry.name))


def files_under(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files at any depth below a folder, without junk, in no particular order; follow links."""
    yield from files_in(folder)
    for name in folders_in(folder):
        yield from files_under(folder / name)


def images_in(folder: Path) -> list[str]:
    """Return the names of the images that lie directly in a folder, sorted."""
    return sorted(os.path.basename(path) for path in images_among([entry.path for entry in files_in(folder)]))  # noqa: PTH119


def images_under(folder: Path, start: Path) -> list[str]:
    """Return the images at any depth below `folder`, as paths relative to `start`, sorted."""
    prefix_length = len(os.path.join(start, ""))  # noqa: PTH118 - faster than a Path for each of a million files
    return sorted(path[prefix_length:] for path in images_among([entry.path for entry in files_under(folder)]))


def images_among(paths: Sequence[str]) -> list[str]:
    """Return the paths of image files or, if there are none, of NumPy arrays and DICOM files."""
    return list(filter(is_image, paths)) or list(filter(holds_numbers, paths))
