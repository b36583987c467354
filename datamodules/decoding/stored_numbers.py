"""The numbers that a file holds, of more bits or channels than a viewer shows.

Shapes: an image of `C` channels, `H` rows and `W` columns.
"""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.decoding.dicom import dicom_numbers
from datamodules.decoding.image_file import (
    DICOM,
    FORMATS,
    NUMPY,
    TIFF,
    as_shown,
    first_bytes,
    unreadable_if_it_fails,
)
from datamodules.decoding.optional_package import optional_package


def stored_numbers(
    path: str | Path, channels: int, *, is_shown: bool, value_range: tuple[float, float] | None = None
) -> NDArray[Any]:
    """Read the numbers of an image, an array of NumPy or a DICOM file, `[C, H, W]` of any type.

    If shown, they are what a viewer shows: one or three channels, of a TIFF the first page, transparency laid on white,
    the lowest level black. Else they are all channels, or pages, as they are stored. `value_range` is a window for
    DICOM files in place of their own.
    """
    with unreadable_if_it_fails(path):
        start = first_bytes(path)
        if start.startswith(NUMPY):
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # objects could run code
            return channels_first(np.asarray(array), (1, 3) if is_shown else (channels,))
        if start[128:] == DICOM:
            return dicom_numbers(path, value_range)
        is_tiff = start[:4] in TIFF
        if is_tiff and not is_shown:
            return _tiff_numbers(path)
        try:
            with Image.open(path, formats=FORMATS) as image:
                bits, is_colour = bits_of(image), len(image.getbands()) > 1
                if is_tiff and (bits > 16 or (bits > 8 and is_colour)):
                    return _tiff_numbers(path)
                if bits > 8 and is_colour:
                    return _deep_colours(path, image, is_shown)
                return image_numbers(image, is_shown=is_shown)
        except UnidentifiedImageError:
            if is_tiff:
                return _tiff_numbers(path)
            raise


def image_numbers(image: Image.Image, *, is_shown: bool) -> NDArray[Any]:
    """The numbers of an image that is open in Pillow, `[C, H, W]`."""
    bits = bits_of(image)
    if bits > 16:
        return np.asarray(image)[None]
    if is_shown or bits > 8:
        image = as_shown(image, 2**bits - 1)
        if image.mode not in ("L", "RGB", "I;16"):
            image = image.convert("RGB")
    else:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("1", "P", "PA"):
            image = image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    return np.moveaxis(np.atleast_3d(np.asarray(image)), 2, 0)


def bits_of(image: Image.Image) -> int:
    """The bits of each channel of a file that is open in Pillow, which cuts some to 8: 8, 16 or 32."""
    bits = max(getattr(image, "tag_v2", {}).get(258, (0,)))
    if image.mode == "F" or bits > 16:
        return 32
    tiles = getattr(image, "tile", None)
    layout = tiles[0].args if tiles else ()
    deep = image.format == "PPM" and isinstance(layout, tuple) and layout[-1] > 255
    return 16 if image.mode.startswith("I") or bits > 8 or deep or ";16" in str(layout) else 8


def channels_first(array: NDArray[Any], counts: Collection[int]) -> NDArray[Any]:
    """Bring an array `[H, W]`, `[C, H, W]` or `[H, W, C]` to `[C, H, W]`; a ValueError says if it is unclear which.

    The axis of the channels is the one whose length is among `counts`. If that does not tell, it is the one that
    differs from the two others, which are alike, or else the one that is shorter than both.

    Example:
        >>> [channels_first(np.zeros(shape), (4,)).shape for shape in ((9, 9), (4, 9, 7), (9, 7, 4), (9, 9, 200))]
        [(1, 9, 9), (4, 9, 7), (4, 9, 7), (200, 9, 9)]
    """
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.size:
        a, b, c = array.shape
        for first, last in ((a in counts, c in counts), (a != b == c, a == b != c), (a < min(b, c), c < min(a, b))):
            if first != last:
                return array if first else np.moveaxis(array, 2, 0)
    raise ValueError(
        f"it is an array of shape {list(array.shape)}, which does not tell its channels; save it as [C, H, W], with "
        "fewer channels than rows and columns"
    )


def _deep_colours(path: str | Path, image: Image.Image, is_shown: bool) -> NDArray[Any]:
    """The 16 bits of a PNG in colour or with transparency, which Pillow cuts to 8."""
    if image.format != "PNG" or "transparency" in image.info:  # a colour, which torchvision passes over
        raise ValueError(
            "it has 16 bits in colour, which Pillow cuts to 8; save it as PNG or TIFF, without one transparent colour"
        )
    from torchvision.io import ImageReadMode, decode_image, read_file

    mode = ImageReadMode.RGB_ALPHA if is_shown else ImageReadMode.UNCHANGED
    numbers: NDArray[np.uint16] = decode_image(read_file(str(path)), mode, apply_exif_orientation=True).numpy()
    if is_shown:
        opaque = numbers[3:] / 65535
        numbers = np.rint(numbers[:3] * opaque + 65535 * (1 - opaque)).astype(np.uint16)
    return numbers


def _tiff_numbers(path: str | Path) -> NDArray[Any]:
    """The channels or pages of a TIFF as they are stored."""
    tifffile = optional_package("tifffile", "tiff", "the channels of a TIFF")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # remarks on tags that decide no pixel
    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.series[0].keyframe
        if page.imagewidth * page.imagelength > 2 * (Image.MAX_IMAGE_PIXELS or np.inf):
            raise ValueError(f"it has {page.imagewidth * page.imagelength:,} pixels, more than are read")
        if page.tags.valueof(274, default=1) != 1:
            raise ValueError("it is a TIFF that is stored turned; save it upright")
        numbers: NDArray[Any] = series.asarray()
        others = [place for place, axis in enumerate(series.axes) if axis not in "YX"]
    if numbers.ndim != 2 + len(others) or len(others) > 1:
        raise ValueError(f"it is a TIFF of shape {list(numbers.shape)} ({series.axes}); save one with channels alone")
    return np.moveaxis(numbers, others[0], 0) if others else numbers[None]
