"""Read the numbers of a file that may have more bits or channels than a viewer shows.

Shapes: an image of `C` channels, `H` rows and `W` columns.
"""

import logging
from collections.abc import Collection
from contextlib import suppress
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from core.user_error import UserError
from datamodules.decoding.image_file import DICOM, FORMATS, NUMPY, as_shown, bits_of, unreadable_if_it_fails

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes of a TIFF and a BigTIFF


def stored_numbers(
    path: str | Path, channels: int, *, is_shown: bool, value_range: tuple[float, float] | None = None
) -> NDArray[Any]:
    """Read an image, a NumPy array or a DICOM file, `[C, H, W]` of any dtype.

    With `is_shown`, an image is read as a viewer shows it: one or three channels, the first page of a TIFF, a white
    background, the lowest level black. Otherwise all channels or pages are read as they are stored. `channels` tells
    the channel axis of an array from height and width. `value_range` replaces the window of a DICOM file.
    """
    with unreadable_if_it_fails(path) as content:
        if content.startswith(NUMPY):
            array = np.load(BytesIO(content), allow_pickle=False)  # a pickled object can run code
            return channels_first(array, (1, 3) if is_shown else (channels,))
        if content[128:132] == DICOM:
            return _dicom_numbers(content, value_range)
        if content[:4] in TIFF and not (is_shown and _pillow_keeps_all_bits(content)):
            return _tiff_numbers(content)
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            if bits_of(image) > 8 and len(image.getbands()) > 1:
                raise ValueError(
                    "it has 16 bits in colour, which Pillow cuts to 8; save it as TIFF or give --data.bit_depth 8"
                )
            return image_numbers(image, is_shown=is_shown)


def _pillow_keeps_all_bits(content: bytes) -> bool:
    """Return True if Pillow can read a TIFF and does not reduce 16 bits to 8, as it does in colour."""
    with suppress(UnidentifiedImageError), Image.open(BytesIO(content), formats=FORMATS) as image:
        return bits_of(image) == 8 or (bits_of(image) == 16 and len(image.getbands()) == 1)
    return False


def image_numbers(image: Image.Image, *, is_shown: bool) -> NDArray[Any]:
    """Return the numbers of an open image, `[C, H, W]`."""
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


def channels_first(array: NDArray[Any], counts: Collection[int]) -> NDArray[Any]:
    """Bring an array `[H, W]`, `[C, H, W]` or `[H, W, C]` to `[C, H, W]`.

    The channel axis is the first or the last: the one whose length is among `counts`. If both or none are, it is the
    one that differs from two equal axes; if there is none, it is the shortest. Otherwise ValueError is raised.

    Example:
        >>> [channels_first(np.zeros(shape), (4,)).shape for shape in ((9, 9), (4, 9, 7), (9, 7, 4), (9, 9, 200))]
        [(1, 9, 9), (4, 9, 7), (4, 9, 7), (200, 9, 9)]
    """
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.size:
        a, b, c = array.shape
        rules = [(a in counts, c in counts), (a != b == c, a == b != c), (a < min(b, c), c < min(a, b))]
        for is_first, is_last in rules:
            if is_first != is_last:
                return array if is_first else np.moveaxis(array, 2, 0)
    raise ValueError(
        f"it is an array of shape {list(array.shape)}, which does not tell its channels; save it as [C, H, W], C < H, W"
    )


def _dicom_numbers(content: bytes, value_range: tuple[float, float] | None) -> NDArray[Any]:
    """Read the single frame of a DICOM file as a radiologist's viewer shows it.

    Grey pixels are rescaled by the modality transform (slope and intercept, or a table). Then the window or VOI table
    of the file, or without one the range of its stored bits, is scaled to the range of uint8, or of uint16 for more
    than 8 bits. With `value_range`, a window in rescaled units (Hounsfield units in CT), the rescaled pixels are
    returned. MONOCHROME1 is inverted.
    """
    pydicom = optional_package("pydicom", "dicom", "a DICOM file")
    processing = pydicom.pixels
    dataset = pydicom.dcmread(BytesIO(content))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(f"it is a DICOM file of {frames} frames; save each as a file of its own")
    numbers: NDArray[Any] = dataset.pixel_array
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        numbers = processing.apply_color_lut(numbers, dataset)
    if numbers.ndim == 3:
        return np.moveaxis(numbers, 2, 0)
    numbers = processing.apply_modality_lut(numbers, dataset)
    has_window = "WindowWidth" in dataset or "VOILUTSequence" in dataset
    if value_range is None and (has_window or dataset.get("BitsStored", 32) <= 16):
        low, high = _shown_range(dataset, processing)
        windowed = processing.apply_voi_lut(numbers, dataset)
        levels = np.iinfo(np.uint8 if dataset.BitsStored <= 8 else np.uint16)
        numbers = np.rint((windowed - low) / (high - low) * levels.max).astype(levels.dtype)
        value_range = 0, levels.max
    if photometric == "MONOCHROME1":
        numbers = sum(value_range or (0, 0)) - numbers
    return numbers[None]


def _shown_range(dataset: Any, processing: Any) -> tuple[float, float]:
    """Return the lowest and the highest number that the file's window, table or rescaling can give."""
    if table := dataset.get("VOILUTSequence") or dataset.get("ModalityLUTSequence"):
        return 0, 2 ** table[0].LUTDescriptor[2] - 1
    bits, sign = dataset.BitsStored, dataset.PixelRepresentation
    low, high = processing.apply_modality_lut(np.array([-sign * 2 ** (bits - 1), 2 ** (bits - sign) - 1]), dataset)
    return low, high


def _tiff_numbers(content: bytes) -> NDArray[Any]:
    """Read the channels or pages of a TIFF as they are stored."""
    tifffile = optional_package("tifffile", "tiff", "the channels of a TIFF")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # silence warnings about tags that affect no pixel
    with tifffile.TiffFile(BytesIO(content)) as file:
        series = file.series[0]
        page = series.keyframe
        pixels = page.imagewidth * page.imagelength
        if pixels > 2 * (Image.MAX_IMAGE_PIXELS or np.inf):  # Pillow's limit
            raise ValueError(f"it has {pixels:,} pixels, more than are read")
        if page.tags.valueof(274, default=1) != 1:  # Orientation
            raise ValueError("it is a TIFF that is stored turned; save it upright")
        numbers: NDArray[Any] = series.asarray()
        channel_axes = [index for index, axis in enumerate(series.axes) if axis not in "YX"]
    if numbers.ndim != 2 + len(channel_axes) or len(channel_axes) > 1:
        raise ValueError(f"it is a TIFF of shape {list(numbers.shape)} ({series.axes}); save one with channels alone")
    return np.moveaxis(numbers, channel_axes[0], 0) if channel_axes else numbers[None]


def optional_package(name: str, extra: str, content: str) -> Any:
    """Import a package of an extra in `pyproject.toml`; raise UserError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"To read {content} takes {name}, which is not installed; run pip install -e '.[{extra}]'."
        ) from error
