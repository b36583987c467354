"""What tells an image from any other, as a number."""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from datamodules.image_files import ImageFiles


def digests_of(items: Iterable[bytes | NDArray[np.uint8]]) -> NDArray[np.uint64]:
    """A 64-bit BLAKE2b digest of each item, uint64 `[N]`, the same on every machine."""
    return np.frombuffer(b"".join(blake2b(item, digest_size=8).digest() for item in items), "<u8").astype(np.uint64)


def content_digests(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """That of the pixels of each of some images uint8 `[N, C, H, W]`."""
    return digests_of(np.ascontiguousarray(images).reshape(len(images), -1))


def identities(images: NDArray[np.uint8] | ImageFiles) -> NDArray[np.uint64]:
    """What an image's split is drawn by: its path within the source where it is a file, else its pixels."""
    return digests_of(images.names.tolist()) if isinstance(images, ImageFiles) else content_digests(images)
