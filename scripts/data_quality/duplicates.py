"""Which images are the same: pixel for pixel, or one picture saved in two ways.

Shapes: `N` images; an image of `C` channels, `H` rows and `W` columns; `P` pairs.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from datamodules.decoding.image_file import UnreadableImageError, as_shown, open_image
from datamodules.decoding.image_files import ImageFiles
from datamodules.loading.cores import available_cores
from datamodules.loading.loader import ON_FEWER_CORES, TimedLoader
from datamodules.loading.progress import progress
from datamodules.packing.pack import Images

# Bits of 64 in which the perceptual hashes of one picture may differ. Of Tiny ImageNet's images saved anew (JPEG of
# quality 20 and above, 10% brighter, resized to half, three quarters or double) all stay within 8.
HASH_DISTANCE = 10

DETAIL = 32  # the side, in pixels, of the reduction that the hash is computed from and details are compared on

AREA = 8  # the side of the areas whose mean is taken off, so that a bright sky over dark ground is no likeness

# Correlation of the details of two images from which they are one picture: of the pairs in Tiny ImageNet within the
# distance above, the three that are one to the eye have 0.90 and more, the first that is none 0.84; of its images
# saved at three quarters of their size, 10% brighter, as JPEG of quality 40, 99% are above it.
LIKENESS = 0.85

# The same where other images are alike by nature: pairs of Fashion-MNIST from here on show one garment, a few of them
# in another print, and MNIST, whose ones are alike up to 0.989, has none. What it costs: of 28x28 images saved as
# JPEG of quality 40 it finds one in four (MNIST) or twelve (Fashion-MNIST), of those resized none.
SURE_LIKENESS = 0.99

# How many other pictures an image may have within the hash's distance before it counts as alike by nature.
LOOKALIKES = 4

# The side, in pixels, below which images are not compared but for the same pixels: of two digits of 8x8 pixels, a few
# levels apart, nobody can say whether they are one.
SMALLEST = 16

FLAT = 4.0  # levels of grey that an image must depart from the means of its areas, somewhere, to be compared at all

CHUNK_IMAGES = 64  # images that a worker takes at a time

CHUNK_PAIRS = 2**13  # pairs whose details are compared at a time, 64 MiB

BLOCK_PAIRS = 2**22  # pairs whose hashes are compared at a time, 32 MiB


@dataclass(frozen=True)
class Fingerprints:
    """What is known of images once they have been looked at.

    Args:
        digests: A digest of size and pixels, uint64 `[N]`.
        hashes: Perceptual hashes, uint64 `[N]`.
        details: What a small grey version departs from the means of its areas by, scaled to its largest, int8
            `[N, 1024]`; zeros for an image that is flat.
        sizes: Width and height as stored, int64 `[N, 2]`.
        modes: Pillow's name of the kind of pixels, `N` of them.
        errors: The reason for each image that cannot be read, by place; what the arrays hold there means nothing.
    """

    digests: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    details: NDArray[np.int8]
    sizes: NDArray[np.int64]
    modes: list[str]
    errors: dict[int, str]


@dataclass(frozen=True)
class Pairs:
    """Pairs of images.

    Args:
        places: The two images of each, the first before the second, int64 `[P, 2]`.
        distances: The bits in which their perceptual hashes differ, int64 `[P]`.
        likenesses: The correlation of their details, float32 `[P]`.
    """

    places: NDArray[np.int64]
    distances: NDArray[np.int64]
    likenesses: NDArray[np.float32]


def view(images: Images, index: int) -> tuple[Image.Image, tuple[int, int], str]:
    """Decode an image at its own size as a viewer shows it: upright, 8 bits, transparency laid on white, colour.

    Of an array with other than one or three channels, the first or the first three are shown.
    """
    if not isinstance(images, ImageFiles):
        levels = np.asarray(images[index])
        levels = levels[0] if len(levels) < 3 else np.ascontiguousarray(levels[:3].transpose(1, 2, 0))
        shown = Image.fromarray(levels)
        return shown.convert("RGB"), shown.size, shown.mode
    with open_image(images.path(index)) as image:
        stored = image.size, image.mode
        return as_shown(image).convert("RGB"), *stored


def fingerprint(image: Image.Image) -> tuple[int, NDArray[np.int8]]:
    """The perceptual hash of an image, 64 bits, and its details, int8 `[1024]`."""
    bits = np.packbits(imagehash.phash(image).hash)
    small = image.convert("L").resize((DETAIL, DETAIL), Image.Resampling.BOX)
    areas = np.asarray(small, np.float32).reshape(DETAIL // AREA, AREA, DETAIL // AREA, AREA)
    details = areas - areas.mean(axis=(1, 3), keepdims=True)
    peak = np.abs(details).max()
    scale = 127 / peak if peak >= FLAT else 0
    return int.from_bytes(bits.tobytes(), "big"), np.rint(details * scale).astype(np.int8).ravel()


class _Looks(Dataset[Fingerprints]):
    """Looks at some images at a time."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, indices: range) -> Fingerprints:
        size = len(indices)
        found = Fingerprints(
            np.zeros(size, np.uint64),
            np.zeros(size, np.uint64),
            np.zeros((size, DETAIL**2), np.int8),
            np.zeros((size, 2), np.int64),
            [""] * size,
            {},
        )
        for row, index in enumerate(indices):
            try:
                image, found.sizes[row], found.modes[row] = view(self.images, index)
            except UnreadableImageError as error:
                found.errors[row] = str(error)
                continue
            levels = image if isinstance(self.images, ImageFiles) else np.asarray(self.images[index])
            digest = blake2b(levels.tobytes(), digest_size=8, salt=b"%d %d" % image.size)
            found.digests[row] = int.from_bytes(digest.digest(), "big")
            found.hashes[row], found.details[row] = fingerprint(image)
        return found


def fingerprint_all(images: Images) -> Iterator[Fingerprints]:
    """Decode and fingerprint images with all cores."""
    ranges = [range(start, min(start + CHUNK_IMAGES, len(images))) for start in range(0, len(images), CHUNK_IMAGES)]
    workers = min(available_cores(), len(ranges))
    yield from TimedLoader(_Looks(images), batch_size=None, sampler=ranges, num_workers=workers, remedy=ON_FEWER_CORES)


def concatenate(parts: list[Fingerprints]) -> Fingerprints:
    """Lay fingerprints end to end."""
    errors: dict[int, str] = {}
    start = 0
    for part in parts:
        errors |= {start + row: reason for row, reason in part.errors.items()}
        start += len(part.modes)
    return Fingerprints(
        np.concatenate([part.digests for part in parts]),
        np.concatenate([part.hashes for part in parts]),
        np.concatenate([part.details for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        [mode for part in parts for mode in part.modes],
        errors,
    )


def near_pairs(prints: Fingerprints, places: NDArray[np.int64]) -> Pairs:
    """Find the images that are one picture saved in two ways, comparing each with each.

    Two are, if their perceptual hashes and their details are close: details closer where an image is smaller than what
    is compared, or has the hash of many other pictures.

    Args:
        prints: The fingerprints of all images.
        places: The images to compare, int64: readable ones, in ascending order, no two with the same pixels.

    Returns:
        The pairs, the most alike first.
    """
    sides = prints.sizes.min(axis=1)
    places = places[prints.details[places].any(axis=1) & (sides[places] >= SMALLEST)]
    hashes, details = prints.hashes[places], prints.details[places]
    norms = np.sqrt(np.einsum("nd,nd->n", details, details, dtype=np.float32))
    rows = max(1, BLOCK_PAIRS // max(1, len(places)))

    def compare(start: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        distances = np.bitwise_count(hashes[start : start + rows, None] ^ hashes[start:])
        close = np.flatnonzero(distances <= HASH_DISTANCE)
        first, second = np.divmod(close, distances.shape[1])
        ahead = first < second
        first, second, bits = first[ahead] + start, second[ahead] + start, distances.ravel()[close[ahead]]
        likenesses = np.empty(len(first), np.float32)
        for begin in range(0, len(first), CHUNK_PAIRS):
            some = slice(begin, begin + CHUNK_PAIRS)
            left, right = (details[ends[some]].astype(np.float32) for ends in (first, second))
            likenesses[some] = np.einsum("pd,pd->p", left, right) / (norms[first[some]] * norms[second[some]])
        return first, second, bits.astype(np.int64), likenesses

    lookalikes, done = np.zeros(len(places), np.int64), 0
    kept = [(np.empty(0, np.int64),) * 3 + (np.empty(0, np.float32),)]
    with ThreadPoolExecutor(available_cores()) as threads, progress("Comparing", len(places)) as advance:
        for first, second, bits, likenesses in threads.map(compare, range(0, len(places), rows)):
            alike = likenesses >= LIKENESS
            for ends in (first, second):
                lookalikes += np.bincount(ends[~alike], minlength=len(places))
            kept.append((first[alike], second[alike], bits[alike], likenesses[alike]))
            advance(min(rows, len(places) - done))
            done += rows
    first, second, bits, likenesses = (np.concatenate(column) for column in zip(*kept, strict=True))
    stands_out = (lookalikes <= LOOKALIKES) & (sides[places] >= DETAIL)
    sure = (likenesses >= SURE_LIKENESS) | (stands_out[first] & stands_out[second])
    order = np.flatnonzero(sure)[np.argsort(-likenesses[sure], kind="stable")]
    found = np.stack([places[first[order]], places[second[order]]], axis=1)
    return Pairs(found, bits[order], likenesses[order])
