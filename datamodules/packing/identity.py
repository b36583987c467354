"""What tells an image from any other, as a number."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datamodules.decoding.image_files import ImageFiles
    from datamodules.decoding.pixel_format import Levels

# Copies of one image that count as one; more are split by these, so that a source of few images has splits, too.
TOGETHER = 8


def content_digests(images: "Levels") -> NDArray[np.uint64]:
    """A digest of the pixels of each of some images `[N, C, H, W]`, uint64 `[N]`."""
    return _digests(image.data for image in np.ascontiguousarray(images).reshape(len(images), -1))


def path_digests(names: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """A digest of each path, uint64 `[N]`."""
    return _digests(names.tolist())


def _digests(items: Iterable[bytes | memoryview]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(blake2b(item, digest_size=8).digest() for item in items), "<u8").astype(np.uint64)


def by_copies(digests: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Digests of a source's images, where at most `TOGETHER` copies of one image keep the same digest."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    before = np.arange(len(digests)) - np.searchsorted(ordered, ordered)
    told_apart = digests.copy()
    told_apart[order] += (before // TOGETHER).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return told_apart


def identities(parts: "Iterable[Levels | ImageFiles]") -> NDArray[np.uint64]:
    """What the split of each image of a source is drawn by: its path where it is a file, else its pixels."""
    digests = [
        path_digests(each.names) if hasattr(each, "names") else content_digests(np.asarray(each)) for each in parts
    ]
    return by_copies(np.concatenate(digests))
