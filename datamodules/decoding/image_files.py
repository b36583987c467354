"""Images in files: found in a folder, and decoded when they are asked for.

Shapes: `N` images of `C` channels, `H` rows and `W` columns.
"""

import hashlib
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from core.user_error import UserError
from datamodules.decoding.image_file import Resize, UnreadableImageError, holds_numbers, is_image
from datamodules.decoding.pixel_format import AS_THE_FIRST, EIGHT_BITS, Levels, OtherPixelsError, PixelFormat, bits_in
from datamodules.decoding.remembered_times import MEMORY

# Path relative to the source's folder, and label, of each image of each split.
Listing = Mapping[str, Sequence[tuple[str, int]]]

# Files and folders that operating systems leave behind, besides hidden ones, which begin with `.`.
JUNK = frozenset(
    (
        *("__MACOSX", "__pycache__", "lost+found", "System Volume Information", "Thumbs.db", "desktop.ini"),
        *("$RECYCLE.BIN", "@eaDir", "@Recycle", "#recycle"),
    )
)

SETTLED_BY = 100  # the format is settled by the first readable image among so many


@dataclass(eq=False)
class ImageFiles:
    """A sequence of images in files, as uint8 or uint16 `[N, C, H, W]` that is decoded where it is indexed.

    `names` are paths relative to `folder`, encoded as the file system does, bytes `[N]`: one array, so that millions of
    them neither fill the memory nor are copied to workers object by object.
    """

    folder: Path
    names: NDArray[np.bytes_]
    image_shape: tuple[int, int, int]
    resize: Resize = "crop"
    pixel_format: PixelFormat = EIGHT_BITS

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The type of a level."""
        return self.pixel_format.dtype

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return (len(self.names), *self.image_shape)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The path of an image."""
        return self.folder / os.fsdecode(self.names[index])

    def read(self, index: int) -> Levels:
        """Decode one image to `[C, H, W]`."""
        return self.pixel_format.read(self.path(index), self.image_shape[0], self.image_shape[1:], self.resize)

    def __getitem__(self, indices: NDArray[np.int64]) -> Levels:
        """Decode some images to `[B, C, H, W]`; a UserError names one that could be read when they were listed."""
        images, errors = TryDecode(self)[indices]
        for row, reason in errors.items():
            raise UserError(
                f"{self.path(indices[row])}: {reason}, though it could be read before; restore it and use --resume."
            )
        return images


@dataclass
class TryDecode(Dataset[tuple[Levels, dict[int, str]]]):
    """Decodes the images that can be decoded, and says why others cannot.

    If the result is kept (`for_good`), an error that has a remedy is a UserError.
    """

    images: ImageFiles
    for_good: bool = False

    def __getitem__(self, indices: range | NDArray[np.int64]) -> tuple[Levels, dict[int, str]]:
        """Decode some images to `[B, C, H, W]`, zeros where there is no image, with the reason for such a row."""
        chunk = np.zeros((len(indices), *self.images.image_shape), self.images.dtype)
        errors = {}
        for row, index in enumerate(indices):
            try:
                chunk[row] = self.images.read(index)
            except UnreadableImageError as error:
                if self.for_good and error.remedy:
                    raise UserError(
                        f"{self.images.path(index)} cannot be used: {error}; take it out, or {error.remedy}."
                    ) from error
                errors[row] = str(error)
        return chunk, errors


def settled(images: ImageFiles) -> PixelFormat:
    """The format of images whose first file decides what was left open; a UserError says why it cannot be read.

    If it is no image, another of some spread over all decides. Printed is what it holds if more than 8 bits as shown.
    """
    pixels, channels = images.pixel_format, images.image_shape[0]
    is_shown = pixels.is_shown(channels)
    if pixels.bit_depth is not None and is_shown:
        return pixels
    path, numbers = next(_some_numbers(images), (Path(), None))
    if numbers is None:
        return replace(pixels, bit_depth=pixels.bit_depth or 8, stored_bits=None if pixels.bit_depth else 8)
    bits = bits_in(numbers)
    if bits > 16 and pixels.value_range is None:
        ends = [end for _, each in _some_numbers(images) for end in (np.nanmin(each), np.nanmax(each))]
        raise UserError(
            f"{path} holds numbers of type {numbers.dtype}; some images have {min(ends):.6g} to {max(ends):.6g}; give "
            "those that stand for black and white, as in --data.value_range '[0, 1]'."
        )
    fixed = replace(
        pixels,
        bit_depth=pixels.bit_depth or (8 if bits == 8 else 16),
        stored_bits=bits if pixels.bit_depth is None and pixels.value_range is None else None,
        stored_channels=None if pixels.planes is None else len(numbers),
    )
    try:
        fixed.levels(numbers[:, :1, :1], channels)
    except OtherPixelsError as error:
        raise UserError(
            f"{path} cannot be read as asked: {error}; give them as --data.channels, or a list as '[3, 2, 1]'."
        ) from error
    if fixed.facts or not is_shown:
        count, height, width = numbers.shape
        print(f"{path} has {width}x{height} pixels, channels: {count}, {numbers.dtype}, read as {fixed.dtype}")
    return fixed


def _some_numbers(images: ImageFiles) -> Iterator[tuple[Path, NDArray[Any]]]:
    """Path and numbers of the first image and some of the others, if they can be read."""
    for index in range(0, len(images), max(1, -(-len(images) // SETTLED_BY))):
        with suppress(UnreadableImageError):
            yield (path := images.path(index)), images.pixel_format.numbers(path, images.image_shape[0])


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is nobody's data."""
    return name.startswith(".") or name in JUNK


def files_in(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file that lies in a folder itself, junk left out, in no particular order."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not is_junk(entry.name) and not entry.is_dir())


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder, junk left out, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not is_junk(entry.name))


def files_under(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder, junk left out, in no particular order; links are followed."""
    yield from files_in(folder)
    for name in folders_in(folder):
        yield from files_under(folder / name)


def images_in(folder: Path) -> list[str]:
    """The names of the images that lie in a folder itself, sorted."""
    return sorted(os.path.basename(path) for path in images_among([entry.path for entry in files_in(folder)]))  # noqa: PTH119


def images_under(folder: Path, start: Path) -> list[str]:
    """The images below `folder`, as paths relative to `start`, sorted."""
    skip = len(os.path.join(start, ""))  # noqa: PTH118 - a string to measure
    return sorted(path[skip:] for path in images_among([entry.path for entry in files_under(folder)]))


def images_among(paths: Sequence[str]) -> list[str]:
    """Those of some files that are images; where none is, those that hold the numbers of one: arrays and DICOM."""
    return list(filter(is_image, paths)) or list(filter(holds_numbers, paths))


def fingerprint_files(folder: Path, only: tuple[str, ...] | None = None) -> str:
    """A digest of path, size and both times of change of every file below a folder, or of a single file.

    Where there are `only` some folders to look into, they are relative to the folder, as `a/b/`.

    Archives and `cp -p` set a file's time of modification back; only the system sets the time of change of its inode.
    """
    if folder.is_file():
        facts = folder.stat()
        return hashlib.sha256(b"%d %d %d" % (facts.st_size, *times_of(facts))).hexdigest()
    memory = MEMORY.get()
    return memory.fingerprint(folder, only) if memory else look_through(folder, only)[0]


def times_of(facts: os.stat_result) -> list[int]:
    """Times of modification and of change."""
    return [facts.st_mtime_ns, facts.st_ctime_ns]


def look_through(folder: Path, only: tuple[str, ...] | None = None) -> tuple[str, dict[str, list[int]], int]:
    """Look at every file below a folder; or at those that lie in `only` these folders in it, such as `a/b/`.

    Returns:
        A digest of path, size and times of each file; the times of each folder by its path; the number of files.
    """
    digest, times, files = hashlib.sha256(), {}, 0
    folders = [""] if only is None else sorted(only)
    while folders:
        within = folders.pop()
        # Relative to an open folder, a hundred thousand files take half the time that they take by their paths.
        opened = os.open(folder / within, os.O_RDONLY)
        try:
            times[within] = times_of(os.fstat(opened))  # before its files, so that a file added meanwhile is noticed
            names, numbers = [within], array("q")
            for name in sorted(name for name in os.listdir(opened) if not is_junk(name)):  # noqa: PTH208
                facts = _facts(name, opened)
                if not S_ISDIR(facts.st_mode):
                    numbers.extend((facts.st_size, *times_of(facts)))
                    files += 1
                elif only is None:
                    folders.append(f"{within}{name}/")
                else:
                    continue
                names.append(name if only is None else f"{within}{name}")
        finally:
            os.close(opened)
        digest.update(os.fsencode("\0".join((*names, ""))) + numbers.tobytes())
    return digest.hexdigest(), times, files


def _facts(name: str, folder: int) -> os.stat_result:
    try:
        return os.stat(name, dir_fd=folder)
    except FileNotFoundError:  # a link to nothing, which is reported when it is read
        return os.stat(name, dir_fd=folder, follow_symlinks=False)


def listed(
    folder: Path,
    images: Listing,
    shape: tuple[int, int, int],
    resize: Resize = "crop",
    pixel_format: PixelFormat = AS_THE_FIRST,
) -> dict[str, tuple[ImageFiles, NDArray[np.int64]]]:
    """Make the source of a data set from a listing of its files."""
    for name, _ in chain(*images.values()):
        if name.startswith("/") or (".." in name and ".." in name.split("/")):
            raise UserError(
                f"The images in {folder} are said to include {name}, which is elsewhere; correct the list of files."
            )
    source = {}
    for split, rows in images.items():
        names = np.array([os.fsencode(name) for name, _ in rows], np.bytes_)
        labels = np.array([label for _, label in rows], np.int64)
        source[split] = ImageFiles(folder, names, shape, resize, pixel_format), labels
    return source
