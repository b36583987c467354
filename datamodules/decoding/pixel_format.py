"""How the numbers in files become the levels that a network is fed.

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
    """An image of other channels, bits or values than those that are read; the message is the reason."""

    remedy = "bring all to as many bits with --data.bit_depth 8 or 16, if only these differ"


@dataclass(frozen=True)
class PixelFormat:
    """How the numbers in files become levels.

    With 1 or 3 channels and no `planes`, images are what a viewer shows, and grey and colour are turned into each
    other; else their channels, or the pages of a TIFF, are taken as they are stored.

    Args:
        bit_depth: The bits of a level, 8 or 16; None for 8, if all files have that, until `settled` has looked.
        planes: The channels to take, numbered from 1; all if None.
        value_range: The values that become the lowest and the highest level; values beyond become these too.
        stored_bits: The bits that every file has; another is refused. None if all are brought to `bit_depth`.
        stored_channels: The channels that every file has, likewise.
    """

    bit_depth: Literal[8, 16] | None = 8
    planes: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None
    stored_bits: int | None = None
    stored_channels: int | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "PixelFormat":
        """The format that `facts` described; without any, 8 bits as shown."""
        known: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in facts.items()}
        return cls(**{name: known[name] for name in asdict(cls()) if name in known})

    @property
    def facts(self) -> dict[str, Any]:
        """What differs from 8 bits as shown, in plain types."""
        facts = {name: value for name, value in asdict(self).items() if value != getattr(EIGHT_BITS, name)}
        if self.bit_depth != 16:  # a network of 8 bits is also given files of 16
            facts.pop("stored_bits", None)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}

    @property
    def highest(self) -> int:
        """The highest level, 255 or 65535."""
        return 65535 if self.bit_depth == 16 else 255

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The type of a level."""
        return np.dtype(np.uint16 if self.bit_depth == 16 else np.uint8)

    def is_shown(self, channels: int) -> bool:
        """Whether images of so many channels are what a viewer shows."""
        return self.planes is None and channels in (1, 3)

    def is_plain(self, channels: int) -> bool:
        """Whether they are, in 8 bits."""
        return self.is_shown(channels) and self.bit_depth != 16 and self.value_range is None

    def read(self, path: str | Path, channels: int, size: tuple[int, int], resize: Resize = "crop") -> Levels:
        """Decode a file at its full size, and resize it to `size` (height, width), bilinearly with antialiasing.

        It becomes uint8 or uint16 `[C, H, W]`; an UnreadableImageError says why it gives no image.
        """
        if self.is_plain(channels) and not holds_numbers(path):
            with open_image(path) as image:
                self._check(bits_of(image))
                return pixels_of(image, channels, size, resize)
        return self.fitted(self.levels(self.numbers(path, channels), channels), size, resize)

    def numbers(self, path: str | Path, channels: int) -> NDArray[Any]:
        """The numbers of a file as they are stored or shown, `[C, H, W]` of any type."""
        from datamodules.decoding.stored_numbers import stored_numbers

        return stored_numbers(path, channels, is_shown=self.is_shown(channels), value_range=self.value_range)

    def levels(self, numbers: NDArray[Any], channels: int) -> Levels:
        """Turn numbers `[C, H, W]` of any type into so many channels of levels; an OtherPixelsError says why not."""
        found, bits = len(numbers), bits_in(numbers)
        if numbers.dtype.kind not in "buif" or (bits > 16 and self.value_range is None):
            raise OtherPixelsError(
                f"its numbers are {numbers.dtype}, whose scale only --data.value_range tells; give it, or save uint8"
            )
        self._check(bits)
        fits = found == channels or (self.is_shown(channels) and found in (1, 3))
        if self.planes is not None:
            fits = max(self.planes) <= found == (self.stored_channels or found)
        if not fits:
            raise OtherPixelsError(
                f"it has {found} channels, where {self.stored_channels or list(self.planes or ()) or channels} are read"
            )
        if self.planes is not None:
            numbers = numbers[np.array(self.planes) - 1]
        levels = self._scaled(numbers)
        if len(levels) == channels:
            return levels
        if channels == 3:
            return levels.repeat(3, axis=0)
        grey = np.tensordot((19595, 38470, 7471), levels.astype(np.int64), 1)  # ITU-R 601, as Pillow rounds it
        return np.asarray((grey + 2**15) >> 16, self.dtype)[None]

    def _check(self, bits: int) -> None:
        expected = self.stored_bits or (8 if self.bit_depth is None else bits)
        if bits != expected:
            raise OtherPixelsError(f"it has {bits} bits a channel, where {expected} are read")

    def _scaled(self, numbers: NDArray[Any]) -> Levels:
        if self.value_range is None and numbers.dtype.itemsize == self.dtype.itemsize:
            return np.asarray(numbers, self.dtype)
        low, high = self.value_range or (0, np.iinfo(numbers.dtype).max)
        shares = (numbers.astype(np.float64) - low) / (high - low)
        if np.isnan(shares).any():
            raise OtherPixelsError("it has values that are no numbers (NaN); replace them in the file")
        return np.asarray(np.rint(shares.clip(0, 1) * self.highest), self.dtype)

    def fitted(self, levels: Levels, size: tuple[int, int], resize: Resize = "crop") -> Levels:
        """Resize each channel of levels `[C, H, W]` to a height and a width, bilinearly with antialiasing."""
        planes = [np.asarray(plane, np.float32 if self.bit_depth == 16 else np.uint8) for plane in levels]
        fitted = np.stack([np.asarray(resized(Image.fromarray(plane), size, resize)) for plane in planes])
        return np.rint(fitted).astype(np.uint16) if self.bit_depth == 16 else fitted


EIGHT_BITS, AS_THE_FIRST = PixelFormat(8), PixelFormat(None)


def bits_in(numbers: NDArray[Any]) -> int:
    """The bits of each channel of numbers: 8 or 16, or 32 for all types that only a range of values gives a scale."""
    return {"u1": 8, "u2": 16}.get(numbers.dtype.str[1:], 32)
