"""A lazy sequence of image files, which are decoded when they are indexed.

Shapes: `N` images of `C` channels, `H` rows and `W` columns; `B` images of a batch.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from core.user_error import UserError
from datamodules.decoding.image_file import Resize, UnreadableImageError
from datamodules.decoding.pixel_format import AS_THE_FIRST, EIGHT_BITS, Levels, OtherPixelsError, PixelFormat, bits_in

# For each split, the path (relative to the source's folder) and the label of each image.
Listing = Mapping[str, Sequence[tuple[str, int]]]

SAMPLE_SIZE = 100  # images that are tried, at most, to find a readable one or the range of values


@dataclass(eq=False)
class ImageFiles:
    """A sequence of image files, which looks like an array uint8 or uint16 `[N, C, H, W]`.

    `names` are paths relative to `folder`, encoded as in the file system, bytes `[N]`. One array of bytes needs little
    memory for millions of paths, and is quickly sent to worker processes.
    """

    folder: Path
    names: NDArray[np.bytes_]
    image_shape: tuple[int, int, int]
    resize: Resize = "crop"
    pixel_format: PixelFormat = EIGHT_BITS

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The dtype of the decoded images."""
        return self.pixel_format.dtype

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return (len(self.names), *self.image_shape)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.folder / os.fsdecode(self.names[index])

    def read(self, index: int) -> Levels:
        """Decode one image to `[C, H, W]`."""
        return self.pixel_format.read(self.path(index), self.image_shape[0], self.image_shape[1:], self.resize)

    def __getitem__(self, indices: NDArray[np.int64]) -> Levels:
        """Decode images to `[B, C, H, W]`; raise UserError if one has become unreadable."""
        images, errors = TryDecode(self)[indices]
        for row, reason in errors.items():
            raise UserError(
                f"{self.path(indices[row])}: {reason}, though it could be read before; restore it and use --resume."
            )
        return images


@dataclass
class TryDecode(Dataset[tuple[Levels, dict[int, str]]]):
    """Decodes images and collects errors; with `for_good` (for a pack), one that the user can mend raises UserError."""

    images: ImageFiles
    for_good: bool = False

    def __getitem__(self, indices: range | NDArray[np.int64]) -> tuple[Levels, dict[int, str]]:
        """Return images `[B, C, H, W]`, with zeros for an unreadable one, and the reason for each such row."""
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


def listed(
    folder: Path,
    images: Listing,
    shape: tuple[int, int, int],
    resize: Resize = "crop",
    pixel_format: PixelFormat = AS_THE_FIRST,
) -> dict[str, tuple[ImageFiles, NDArray[np.int64]]]:
    """Return what a data set's `read` must return, from a listing of the files in `folder`."""
    source = {}
    for split, rows in images.items():
        for name, _ in rows:
            if name.startswith("/") or (".." in name and ".." in name.split("/")):
                raise UserError(f"The listing of {folder} has {name}, which is outside; correct the list of files.")
        names = np.array([os.fsencode(name) for name, _ in rows], np.bytes_)
        labels = np.array([label for _, label in rows], np.int64)
        source[split] = ImageFiles(folder, names, shape, resize, pixel_format), labels
    return source


def decide_pixel_format(images: ImageFiles) -> PixelFormat:
    """Return the images' pixel format, with whatever it leaves open taken from the first readable image.

    It is printed if it is not the usual one: 8 bits in grey or RGB. UserError is raised if that image's numbers have no
    known scale, or it lacks the channels asked for.
    """
    pixels, channels = images.pixel_format, images.image_shape[0]
    is_shown = pixels.is_shown(channels)
    if pixels.bit_depth is not None and is_shown:
        return pixels
    path, numbers = next(_sample(images), (Path(), None))
    if numbers is None:
        return replace(pixels, bit_depth=pixels.bit_depth or 8, stored_bits=None if pixels.bit_depth else 8)
    bits = bits_in(numbers)
    if bits > 16 and pixels.value_range is None:
        ranges = [(np.nanmin(array), np.nanmax(array)) for _, array in _sample(images)]
        lowest, highest = min(low for low, _ in ranges), max(high for _, high in ranges)
        raise UserError(
            f"{path} holds numbers of type {numbers.dtype}; some images have {lowest:.6g} to {highest:.6g}; give "
            "those that stand for black and white, as in --data.value_range '[0, 1]'."
        )
    decided = replace(
        pixels,
        bit_depth=pixels.bit_depth or (8 if bits == 8 else 16),
        stored_bits=bits if pixels.bit_depth is None and pixels.value_range is None else None,
        stored_channels=None if pixels.planes is None else len(numbers),
    )
    try:
        decided.levels(numbers[:, :1, :1], channels)
    except OtherPixelsError as error:
        raise UserError(
            f"{path} cannot be read as asked: {error}; give them as --data.channels, or a list as '[3, 2, 1]'."
        ) from error
    if decided.facts or not is_shown:
        count, height, width = numbers.shape
        print(f"{path} has {width}x{height} pixels, channels: {count}, {numbers.dtype}, read as {decided.dtype}")
    return decided


def _sample(images: ImageFiles) -> Iterator[tuple[Path, NDArray[Any]]]:
    """Yield path and numbers of the readable ones among `SAMPLE_SIZE` evenly spaced images, the first included."""
    step = max(1, -(-len(images) // SAMPLE_SIZE))
    for index in range(0, len(images), step):
        path = images.path(index)
        with suppress(UnreadableImageError):
            yield path, images.pixel_format.numbers(path, images.image_shape[0])
