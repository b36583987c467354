"""One image file as pixels of the size, channels and depth that a network is fed.

Shapes: an image of `C` channels, `H` rows and `W` columns.
"""

import errno
import io
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

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif"),
    )
)
"""Endings of file names, in lower case, that are taken for images; files of other names are looked into."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's formats of photographs, which files of other names are looked into for."""

HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"))
"""What files of HEIC and AVIF have in their bytes 8 to 11, after `ftyp`."""

OWN_FAULTS = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL))
"""What the system says of a file that cannot be read however often one tries; all else it says may pass."""

Resize = Literal["crop", "squash"]
"""How an image of another shape is fitted: its shorter side resized and its centre cut out, or both sides resized."""


class UnreadableImageError(ValueError):
    """A file that gives no image; the message is the reason."""


class TemporaryError(UnreadableImageError):
    """A file that could not be read this time: for want of permission, memory or open files, or a disk failed."""


def is_image(path: str) -> bool:
    """Whether a file is taken for an image: by the ending of its name, or else by its first bytes.

    One that cannot be read is, so that reading it says why.
    """
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - 10x faster
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return False
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return _is_heif(path)
    except Exception as error:  # Pillow's parsers let through whatever they stumble over
        return _may_pass(error)


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open a file, to be decoded within.

    Args:
        path: The file.

    Raises:
        UnreadableImageError: If its header is that of no image or of one larger than Pillow's limit, or what is done
            with it within fails; a TemporaryError if that is no fault of the file's own.
    """
    with _unreadable_if_it_fails(path):
        if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116 - which would wait for a writer for ever
            raise UnreadableImageError("it is no file but a pipe")
        with Image.open(path) as image:
            yield image


def read_image(path: str | Path, channels: int, size: tuple[int, int], resize: Resize = "crop") -> NDArray[np.uint8]:
    """Decode a file as its photographer saw it: EXIF orientation applied, transparency laid on white, first frame.

    16-bit grey levels are scaled to 8 bits, not clipped. A JPEG much larger than `size` is decoded at the smallest of
    its scales that is still at least twice as large.

    Args:
        path: The file.
        channels: 1 for grey, 3 for red, green and blue.
        size: Height and width to resize to, bilinear with antialiasing.
        resize: `crop` or `squash`.

    Returns:
        uint8 `[C, H, W]`.

    Raises:
        UnreadableImageError: If the file is no image, is truncated, or has 32-bit pixels, whose scale nobody knows.
    """
    with open_image(path) as image:
        return _pixels(image, channels, size, resize)


def image_pixels(
    image: Image.Image, channels: int, size: tuple[int, int], resize: Resize = "crop"
) -> NDArray[np.uint8]:
    """What `read_image` gives for the file of an image that Pillow has opened, or for one that was made in memory.

    Args:
        image: The image, which stays what it is for others who look at it.
        channels: As in `read_image`, like the rest.
        size: Likewise.
        resize: Likewise.

    Returns:
        uint8 `[C, H, W]`.

    Raises:
        UnreadableImageError: If it cannot be decoded, or has 32-bit pixels.
    """
    with _unreadable_if_it_fails():
        file = getattr(image, "fp", None)
        if image.format == "JPEG" and file and getattr(image, "tile", None):
            # Not decoded yet: decoding a second one at a smaller scale leaves this one at its own.
            place = file.tell()
            file.seek(0)
            content = io.BytesIO(file.read())
            file.seek(place)
            with Image.open(content) as second:
                return _pixels(second, channels, size, resize)
        return _pixels(image, channels, size, resize)


@contextmanager
def _unreadable_if_it_fails(path: str | Path = "") -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large but readable, or with EXIF entries of no concern here
            yield
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's parsers and decoders let through whatever they stumble over
        kind = TemporaryError if _may_pass(error) or (path and not _can_be_read(path)) else UnreadableImageError
        raise kind(_reason(error, path)) from error


def _may_pass(error: Exception) -> bool:
    """Whether an error is no fault of the file's own, so that another try may succeed."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in OWN_FAULTS
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _can_be_read(path: str | Path) -> bool:
    """Whether all bytes of a file can be had, of which decoders in C do not tell."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            while file.read(2**20):
                pass
    except OSError as error:
        return not _may_pass(error)
    return True


def _is_heif(path: str | Path) -> bool:
    with open(path, "rb") as file:  # noqa: PTH123
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in HEIF_BRANDS


def _reason(error: Exception, path: str | Path) -> str:
    """What Pillow says, without the path, which the caller knows."""
    if isinstance(error, FileNotFoundError):
        return "the file is not there"
    if isinstance(error, UnidentifiedImageError):
        if _is_heif(path):
            return "it is HEIC or AVIF, which the installed Pillow cannot decode; convert it to JPEG or PNG"
        return "the file is empty" if not os.path.getsize(path) else "it is no image"  # noqa: PTH202
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _pixels(image: Image.Image, channels: int, size: tuple[int, int], resize: Resize) -> NDArray[np.uint8]:
    height, width = size
    mode = "L" if channels == 1 else "RGB"
    if image.format == "JPEG" and image.mode in ("L", "RGB"):
        # Orientation may turn the image, so that either side may become either.
        side = 2 * max(width, height)
        image.draft(mode, (side, side))
    upright = as_shown(image)
    if upright.mode != mode:
        upright = upright.convert(mode)
    if upright.size != (width, height):
        box = (0.0, 0.0, float(upright.width), float(upright.height))
        if resize == "crop":
            scale = min(upright.width / width, upright.height / height)
            # One of them is 0, and may be rounded to less, which Pillow refuses.
            left, top = max(0, upright.width - scale * width) / 2, max(0, upright.height - scale * height) / 2
            box = (left, top, upright.width - left, upright.height - top)
        upright = upright.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=3.0)
    pixels: NDArray[np.uint8] = np.asarray(upright)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def as_shown(image: Image.Image) -> Image.Image:
    """An image as a viewer shows it: EXIF orientation applied, 8 bits, transparency laid on white.

    Raises:
        UnreadableImageError: If the levels have 32 bits.
    """
    upright = _to_eight_bits(ImageOps.exif_transpose(image))
    if upright.has_transparency_data:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return upright


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit levels to 8 bits, which Pillow's own conversion would clip."""
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint16)
        return Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableImageError("its pixels have 32 bits, whose scale is unknown; save it with 8 or 16")
    return image
