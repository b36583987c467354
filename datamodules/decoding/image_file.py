"""One image file as pixels of the size, channels and depth that a network is fed.

Shapes: an image of `C` channels, `H` rows and `W` columns.
"""

import errno
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from core.user_error import UserError

# Endings of the names of image files, in lower case; files of other names are looked into.
IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif"),
    )
)

# The formats that Pillow may open; for PostScript it would run Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

NUMPY, DICOM = b"\x93NUMPY", b"DICM"  # the first bytes of an array of NumPy, and bytes 128 to 131 of a DICOM file

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes of a TIFF

# Bytes 8 to 11, after `ftyp`, of files of HEIC and AVIF.
HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"))

# Errors of the system that another try does not mend; every other error may pass.
OWN_FAULTS = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL))

# How an image of another shape is fitted: its shorter side resized and its centre cut out, or both sides resized.
Resize = Literal["crop", "squash"]


class UnreadableImageError(ValueError):
    """A file that gives no image; the message is the reason."""


class TemporaryError(UnreadableImageError):
    """A file that could not be read this time: for want of permission, memory or open files, or a disk failed."""


def is_image(path: str) -> bool:
    """Whether a file is an image by the ending of its name or by its first bytes.

    A file that cannot be read counts as one, so that reading it says why.
    """
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - 10x faster
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return False
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return _is_heif(first_bytes(path))
    except Exception as error:  # Pillow's parsers let through whatever they stumble over
        return _may_pass(error)


def holds_numbers(path: str | Path) -> bool:
    """Whether a file without the ending of an image is an array of NumPy or a DICOM file, by its first bytes."""
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
        return False
    try:
        start = first_bytes(path) if stat.S_ISREG(os.stat(path).st_mode) else b""  # noqa: PTH116
    except OSError:  # which reading it says
        return False
    return start.startswith(NUMPY) or start[128:] == DICOM


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open a file, to be decoded inside the block."""
    with unreadable_if_it_fails(path):
        if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116 - opening it would wait for a writer for ever
            raise UnreadableImageError("it is no file but a pipe")
        with Image.open(path, formats=FORMATS) as image:
            yield image


@contextmanager
def unreadable_if_it_fails(path: str | Path = "") -> Iterator[None]:
    """Turn what fails inside the block into an UnreadableImageError, or a TemporaryError if it may pass."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large but readable, or with EXIF entries of no concern here
            yield
    except (UnreadableImageError, UserError):
        raise
    except Exception as error:  # Pillow's parsers and decoders let through whatever they stumble over
        kind = TemporaryError if _may_pass(error) or (path and not _can_be_read(path)) else UnreadableImageError
        raise kind(_reason(error, path)) from error


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in OWN_FAULTS
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _can_be_read(path: str | Path) -> bool:
    """Whether all bytes of a file can be read; decoders in C do not say so."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            while file.read(2**20):
                pass
    except OSError as error:
        return not _may_pass(error)
    return True


def first_bytes(path: str | Path) -> bytes:
    """The bytes that tell what a file is."""
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read(132)


def _is_heif(start: bytes) -> bool:
    return start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS


def _reason(error: Exception, path: str | Path) -> str:
    """The error as a sentence, without the path, which the caller knows."""
    if isinstance(error, FileNotFoundError):
        return "the file is not there"
    if isinstance(error, UnidentifiedImageError):
        start = first_bytes(path)
        if _is_heif(start):
            return "it is HEIC or AVIF, which the installed Pillow cannot decode; convert it to JPEG or PNG"
        if start[:4] in TIFF:
            return "it is a TIFF of a kind that Pillow does not read; save it as PNG"
        return "it is no image" if start else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


# The functions below say which pixels an image has: in training, evaluation and prediction, and in the program of
# docs/checkpoints.md for exported networks, which repeats them. They need nothing but Pillow and NumPy.


def pixels_of(image: Image.Image, channels: int, size: tuple[int, int], resize: Resize = "crop") -> NDArray[np.uint8]:
    """An image as viewers show it, resized bilinearly with antialiasing, uint8 `[C, H, W]`."""
    shown, mode = as_shown(image), "L" if channels == 1 else "RGB"
    if shown.mode != mode:
        shown = shown.convert(mode)
    return np.asarray(resized(shown, size, resize)).reshape(*size, channels).transpose(2, 0, 1)


def resized(image: Image.Image, size: tuple[int, int], resize: Resize = "crop") -> Image.Image:
    """An image brought to a height and a width."""
    left = top = 0.0
    if resize == "crop":
        scale = min(image.width / size[1], image.height / size[0])
        # One of them is 0, and may be rounded to less, which Pillow refuses.
        left, top = max(0, image.width - scale * size[1]) / 2, max(0, image.height - scale * size[0]) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box)


def as_shown(image: Image.Image, white: int = 255) -> Image.Image:
    """An image upright, its lowest level black and its highest white, its transparency laid on white.

    It has 8 bits; a grey one that is stored in more has 16 if `white` is 65535.
    """
    image.load()
    kind, tags, transparent = image.mode, getattr(image, "tag_v2", {}), image.info.get("transparency")
    bits, signed, white_is_zero = tags.get(258, (16,))[0], 2 in tags.get(339, ()), tags.get(262) == 0
    if kind == "F" or (kind == "I" and image.format != "PPM" and not (signed and bits == 16)):
        raise ValueError("its pixels have 32 bits, whose scale is unknown; save it with 8 or 16")
    # Pillow mistakes some channels that are stored one after the other, some negative levels, and palettes of 8 bits.
    raw = image.info.get("compression") == "raw"
    planes = kind in ("LA", "La", "PA", "LAB") or (raw and (bits != 8 or white_is_zero or tags.get(266) == 2))
    swapped = signed and bits == 16 and not raw and getattr(tags, "prefix", b"") == b"MM"
    if swapped or (planes and tags.get(284) == 2) or max(tags.get(320, (256,))) < 256:
        raise ValueError("it is a TIFF of a kind that Pillow misreads; save it as PNG")
    if image.getexif().get(274, 1) != 1:  # asked first, as an image that is upright would be copied
        image = ImageOps.exif_transpose(image)
    if kind.startswith("I") or signed:
        highest, levels = 2**bits - 1, np.asarray(image).astype(np.int64)
        if signed:
            levels = (levels + 2 ** (bits - 1)) % 2**bits
        elif white_is_zero:
            levels = highest - levels
        shown = (2 * white * levels + highest) // (2 * highest)
        shown[levels == transparent] = white
        image = Image.fromarray(shown.astype(np.uint8 if white == 255 else np.uint16))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image
