"""Decode one image file to the pixels that a network is fed.

Shapes: an image of `C` channels, `H` rows and `W` columns.
"""

import errno
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from core.user_error import UserError

# File extensions of images, in lower case. Files with another extension are recognised by their first bytes.
IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif"),
    )
)

# The formats that Pillow may open. PostScript is not among them, because Pillow would run Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

NUMPY = b"\x93NUMPY"  # the first bytes of a NumPy array
DICOM = b"DICM"  # bytes 128 to 131 of a DICOM file

# System errors that remain when the file is read again. All others may be temporary.
PERMANENT_ERRORS = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL))

# `crop` resizes the shorter side and crops the centre; `squash` resizes both sides.
Resize = Literal["crop", "squash"]


class UnreadableImageError(ValueError):
    """A file cannot be decoded to an image; the message is the reason."""

    remedy = ""  # what the user can do to keep the image; empty if the file is damaged


class TemporaryError(UnreadableImageError):
    """A file could not be read this time, for example because permission, memory or file handles are missing."""

    remedy = "make it readable and start again, as this may be no fault of the file"


def is_image(path: str) -> bool:
    """Return True for an image, by extension or first bytes, and for an unreadable file, whose decoding reports it."""
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - 10x faster
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return False
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Exception as error:  # Pillow's parsers raise exceptions of any type
        return _is_temporary(error)


def holds_numbers(path: str | Path) -> bool:
    """Return True if a file without an image's extension is a NumPy array or a DICOM file, by its first bytes."""
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES or not os.path.isfile(path):  # noqa: PTH113, PTH122
        return False
    with suppress(OSError), open(path, "rb") as file:  # noqa: PTH123 - decoding reports the error
        start = file.read(132)
        return start.startswith(NUMPY) or start[128:] == DICOM
    return False


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file; errors inside the block become UnreadableImageError."""
    with unreadable_if_it_fails(path) as content, Image.open(BytesIO(content), formats=FORMATS) as image:
        yield image


@contextmanager
def unreadable_if_it_fails(path: str | Path | None = None) -> Iterator[bytes]:
    """Yield the content of a file, and turn errors inside the block into UnreadableImageError or TemporaryError.

    The whole content is read first, because decoders in C do not report an error while reading.
    """
    content = b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and broken EXIF entries
            if path is not None:
                if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116 - reading it would wait for ever
                    raise UnreadableImageError("it is no file but a pipe")
                content = Path(path).read_bytes()
            yield content
    except (UnreadableImageError, UserError):
        raise
    except Exception as error:  # Pillow's parsers and decoders raise exceptions of any type
        error_type = TemporaryError if _is_temporary(error) else UnreadableImageError
        raise error_type(_reason(error, content)) from error


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in PERMANENT_ERRORS
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _reason(error: Exception, content: bytes) -> str:
    """Return the error as text, without the path, which the caller adds."""
    if isinstance(error, FileNotFoundError):
        return "the file is not there"
    if isinstance(error, UnidentifiedImageError):
        if content[4:8] == b"ftyp" or content[:2] in (b"II", b"MM"):
            return "it is HEIC, AVIF or TIFF of a kind that Pillow does not read; save it as JPEG or PNG"
        return "it is no image" if content else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def bits_of(image: Image.Image) -> int:
    """Return the bits of each channel in the file of an open image: 8, 16 or 32; Pillow decodes some of 16 to 8."""
    bits = max(getattr(image, "tag_v2", {}).get(258, (0,)))  # BitsPerSample of a TIFF
    if image.mode == "F" or bits > 16:
        return 32
    tiles = getattr(image, "tile", None)
    decoder_args = tiles[0].args if tiles else ()
    if image.format == "PPM" and isinstance(decoder_args, tuple) and decoder_args[-1] > 255:  # the file's highest level
        return 16
    return 16 if image.mode.startswith("I") or bits > 8 or ";16" in str(decoder_args) else 8


# The functions below decide the pixels of an image in training, evaluation and prediction. The program for exported
# networks in docs/checkpoints.md repeats them, so they use only Pillow and NumPy.


def pixels_of(image: Image.Image, channels: int, size: tuple[int, int], resize: Resize = "crop") -> NDArray[np.uint8]:
    """Return an image as a viewer shows it, resized to (height, width), uint8 `[C, H, W]`."""
    mode = "L" if channels == 1 else "RGB"
    shown = as_shown(image)
    if shown.mode != mode:
        shown = shown.convert(mode)
    return np.asarray(resized(shown, size, resize)).reshape(*size, channels).transpose(2, 0, 1)


def resized(image: Image.Image, size: tuple[int, int], resize: Resize = "crop") -> Image.Image:
    """Resize an image to (height, width), bilinearly with antialiasing."""
    height, width = size
    left = top = 0.0
    if resize == "crop":
        scale = min(image.width / width, image.height / height)
        # One margin is 0. Rounding may make it negative, which Pillow rejects.
        left = max(0, image.width - scale * width) / 2
        top = max(0, image.height - scale * height) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Image.Resampling.BILINEAR, box)


def as_shown(image: Image.Image, white: int = 255) -> Image.Image:
    """Return an image as a viewer shows it: upright, its lowest level black, its highest white, on a white background.

    It has 8 bits, except that a grey image of more bits becomes one of 16 bits if `white` is 65535. ValueError is
    raised if the levels have no known scale, or Pillow decodes the file to wrong pixels.
    """
    image.load()
    mode, tags = image.mode, getattr(image, "tag_v2", {})  # the tags of a TIFF, by number
    bits = tags.get(258, (16,))[0]  # BitsPerSample
    is_signed = 2 in tags.get(339, ())  # SampleFormat
    white_is_zero = tags.get(262) == 0  # PhotometricInterpretation
    if mode == "F" or (mode == "I" and image.format != "PPM" and not (is_signed and bits == 16)):
        raise ValueError("its pixels have 32 bits, whose scale is unknown; save it with 8 or 16")
    # Pillow 13 decodes three kinds of TIFF to wrong pixels without an error:
    is_raw = image.info.get("compression") == "raw"
    # 1. Channels in separate planes (PlanarConfiguration 2). The second channel of these modes becomes 0. Without
    #    compression, 16 bits become noise, and neither white-is-zero nor a reversed FillOrder (266) is applied.
    has_misread_planes = tags.get(284) == 2 and (
        mode in ("LA", "La", "PA", "LAB") or (is_raw and (bits != 8 or white_is_zero or tags.get(266) == 2))
    )
    # 2. Compressed signed 16 bits in a big-endian file: the two bytes of each level are swapped.
    has_swapped_bytes = is_signed and bits == 16 and not is_raw and getattr(tags, "prefix", b"") == b"MM"
    # 3. A palette (ColorMap, 320) of 0 to 255 instead of 0 to 65535: Pillow takes the upper bytes, so all is black.
    has_black_palette = max(tags.get(320, (256,))) < 256
    if has_misread_planes or has_swapped_bytes or has_black_palette:
        raise ValueError("it is a TIFF of a kind that Pillow misreads; save it as PNG")
    if image.getexif().get(274, 1) != 1:  # asked first, because `exif_transpose` copies an upright image
        image = ImageOps.exif_transpose(image)
    if mode.startswith("I") or is_signed:
        transparent_level, highest = image.info.get("transparency"), 2**bits - 1
        levels = np.asarray(image).astype(np.int64)
        if is_signed:
            levels = (levels + 2 ** (bits - 1)) % 2**bits
        elif white_is_zero:
            levels = highest - levels
        scaled = (2 * white * levels + highest) // (2 * highest)
        scaled[levels == transparent_level] = white
        image = Image.fromarray(scaled.astype(np.uint8 if white == 255 else np.uint16))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image
