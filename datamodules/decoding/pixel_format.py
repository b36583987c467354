"""Convert the numbers in image files to the levels that a network is fed.

Shapes: an image of `C` channels, `H` rows and `W` columns.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.decoding.image_file import (
    Resize,
    UnreadableImageError,
    bits_of,
    holds_numbers,
    open_image,
    pixels_of,
    resized,
)

Levels = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16


class OtherPixelsError(UnreadableImageError):
    """An image has other channels, bits or values than the data set's format; the message is the reason."""

    remedy = "bring all to as many bits with --data.bit_depth 8 or 16, if only these differ"


@dataclass(frozen=True)
class PixelFormat:
    """How the numbers in a data set's files become levels.

    With 1 or 3 channels and no `planes`, images are read as a viewer shows them, and converted between grey and RGB.
    Otherwise their channels, or the pages of a TIFF, are read as they are stored.

    Args:
        bit_depth: Bits of a level, 8 or 16. None means that the first image decides (`decide_pixel_format`).
        planes: The channels to read, numbered from 1; None reads all.
        value_range: The values that become the lowest and the highest level; values outside are clipped.
        stored_bits: Bits that every file must have; None accepts any and converts to `bit_depth`.
        stored_channels: Channels that every file must have; None accepts any.
    """

    bit_depth: Literal[8, 16] | None = 8
    planes: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None
    stored_bits: int | None = None
    stored_channels: int | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "PixelFormat":
        """Restore a format from its `facts`; other keys are ignored, missing ones have their defaults."""
        values: dict[str, Any] = {name: tuple(fact) if isinstance(fact, list) else fact for name, fact in facts.items()}
        return cls(**{name: values[name] for name in asdict(cls()) if name in values})

    @property
    def facts(self) -> dict[str, Any]:
        """The fields that differ from their defaults, in plain types, as packs and checkpoints store them."""
        facts = {name: value for name, value in asdict(self).items() if value != getattr(EIGHT_BITS, name)}
        if self.bit_depth != 16:  # a trained network of 8 bits accepts files of 16 bits
            facts.pop("stored_bits", None)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}

    @property
    def highest(self) -> int:
        """The highest level, 255 or 65535."""
        return 65535 if self.bit_depth == 16 else 255

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The dtype of levels."""
        return np.dtype(np.uint16 if self.bit_depth == 16 else np.uint8)

    def is_shown(self, channels: int) -> bool:
        """Return True if images are read as a viewer shows them: in grey or RGB."""
        return self.planes is None and channels in (1, 3)

    def is_plain(self, channels: int) -> bool:
        """Return True if images are read as a viewer shows them in 8 bits, for which Pillow alone is enough."""
        return self.is_shown(channels) and self.bit_depth != 16 and self.value_range is None

    def read(self, path: str | Path, channels: int, size: tuple[int, int], resize: Resize = "crop") -> Levels:
        """Decode a file, and resize it to `[C, H, W]` uint8 or uint16; UnreadableImageError is raised if that fails."""
        if self.is_plain(channels) and not holds_numbers(path):
            with open_image(path) as image:
                self._check_bits(bits_of(image))
                return pixels_of(image, channels, size, resize)
        return self.fitted(self.levels(self.numbers(path, channels), channels), size, resize)

    def numbers(self, path: str | Path, channels: int) -> NDArray[Any]:
        """Read the numbers of a file as they are stored or shown, `[C, H, W]` of any dtype."""
        from datamodules.decoding.stored_numbers import stored_numbers

        return stored_numbers(path, channels, is_shown=self.is_shown(channels), value_range=self.value_range)

    def levels(self, numbers: NDArray[Any], channels: int) -> Levels:
        """Convert numbers `[C, H, W]` of any dtype to levels; OtherPixelsError is raised if they do not match."""
        count, bits = len(numbers), bits_in(numbers)
        if numbers.dtype.kind not in "buif" or (bits > 16 and self.value_range is None):
            raise OtherPixelsError(
                f"its numbers are {numbers.dtype}, whose scale only --data.value_range tells; give it, or save uint8"
            )
        self._check_bits(bits)
        if self.planes is not None:
            matches = max(self.planes) <= count == (self.stored_channels or count)
        else:
            matches = count == channels or (self.is_shown(channels) and count in (1, 3))
        if not matches:
            raise OtherPixelsError(
                f"it has {count} channels, where {self.stored_channels or list(self.planes or ()) or channels} are read"
            )
        if self.planes is not None:
            numbers = numbers[np.array(self.planes) - 1]
        levels = self._scaled(numbers)
        if len(levels) == channels:
            return levels
        if channels == 3:
            return levels.repeat(3, axis=0)
        grey = np.tensordot((19595, 38470, 7471), levels.astype(np.int64), 1)  # ITU-R 601 in units of 2**-16, as Pillow
        return np.asarray((grey + 2**15) >> 16, self.dtype)[None]

    def _check_bits(self, bits: int) -> None:
        expected = self.stored_bits or (8 if self.bit_depth is None else bits)
        if bits != expected:
            raise OtherPixelsError(f"it has {bits} bits a channel, where {expected} are read")

    def _scaled(self, numbers: NDArray[Any]) -> Levels:
        """Scale numbers linearly, from `value_range` or the range of their dtype to that of levels."""
        if self.value_range is None and numbers.dtype.itemsize == self.dtype.itemsize:
            return np.asarray(numbers, self.dtype)
        low, high = self.value_range or (0, np.iinfo(numbers.dtype).max)
        fractions = (numbers.astype(np.float64) - low) / (high - low)
        if np.isnan(fractions).any():
            raise OtherPixelsError("it has values that are no numbers (NaN); replace them in the file")
        return np.asarray(np.rint(fractions.clip(0, 1) * self.highest), self.dtype)

    def fitted(self, levels: Levels, size: tuple[int, int], resize: Resize = "crop") -> Levels:
        """Resize each channel of levels `[C, H, W]` to (height, width), bilinearly with antialiasing."""
        is_deep = self.bit_depth == 16  # Pillow resizes no uint16, but float32
        planes = [np.asarray(plane, np.float32 if is_deep else np.uint8) for plane in levels]
        fitted = np.stack([np.asarray(resized(Image.fromarray(plane), size, resize)) for plane in planes])
        return np.rint(fitted).astype(np.uint16) if is_deep else fitted


EIGHT_BITS = PixelFormat(8)
AS_THE_FIRST = PixelFormat(None)


def bits_in(numbers: NDArray[Any]) -> int:
    """Return the bits of each channel: 8 or 16 for unsigned integers, 32 for any dtype that needs `value_range`."""
    return {"u1": 8, "u2": 16}.get(numbers.dtype.str[1:], 32)
