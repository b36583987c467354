"""One image file as pixels of the size, channels and depth that a network is fed.

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

# Errors of the system that another try does not mend; every other error may pass.
OWN_FAULTS = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL))

# How an image of another shape is fitted: its shorter side resized and its centre cut out, or both sides resized.
Resize = Literal["crop", "squash"]


class UnreadableImageError(ValueError):
    """A file that gives no image; the message is the reason."""

    remedy = ""  # what to do, unless the file can be left out for good


class TemporaryError(UnreadableImageError):
    """A file that could not be read this time: for want of permission, memory or open files, or a disk failed."""

    remedy = "make it readable and start again, as this may be no fault of the file"


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
        return False
    except Exception as error:  # Pillow's parsers let through whatever they stumble over
        return _may_pass(error)


def holds_numbers(path: str | Path) -> bool:
    """Whether a file without the ending of an image is an array of NumPy or a DICOM file, by its first bytes."""
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES or not os.path.isfile(path):  # noqa: PTH113, PTH122
        return False
    with suppress(OSError), open(path, "rb") as file:  # noqa: PTH123 - reading it says why it cannot be read
        start = file.read(132)
        return start.startswith(NUMPY) or start[128:] == DICOM
    return False


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open a file, to be decoded inside the block."""
    with unreadable_if_it_fails(path) as content, Image.open(BytesIO(content), formats=FORMATS) as image:
        yield image


@contextmanager
def unreadable_if_it_fails(path: str | Path | None = None) -> Iterator[bytes]:
    """Give a file's content, and turn what fails inside the block into an UnreadableImageError.

    It is a TemporaryError if it may pass. The content is read at once, as decoders in C do not say that reading failed.
    """
    content = b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large but readable, or with EXIF entries of no concern here
            if path is not None:
                if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116 - reading it would wait for a writer for ever
                    raise UnreadableImageError("it is no file but a pipe")
                content = Path(path).read_bytes()
            yield content
    except (UnreadableImageError, UserError):
        raise
    except Exception as error:  # Pillow's parsers and decoders let through whatever they stumble over
        kind = TemporaryError if _may_pass(error) else UnreadableImageError
        raise kind(_reason(error, content)) from error


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in OWN_FAULTS
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def _reason(error: Exception, content: bytes) -> str:
    """The error as a sentence, without the path, which the caller knows."""
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
    """The bits of each channel of a file that is open in Pillow, which cuts some to 8: 8, 16 or 32."""
    bits = max(getattr(image, "tag_v2", {}).get(258, (0,)))
    if image.mode == "F" or bits > 16:
        return 32
    tiles = getattr(image, "tile", None)
    layout = tiles[0].args if tiles else ()
    deep = image.format == "PPM" and isinstance(layout, tuple) and layout[-1] > 255
    return 16 if image.mode.startswith("I") or bits > 8 or deep or ";16" in str(layout) else 8


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
