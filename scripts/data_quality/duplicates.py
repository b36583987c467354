"""Duplicates: images with the same pixels, or one picture saved in two ways.

Shapes: `N` images; an image of `C` channels, `H` rows and `W` columns; `P` pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from core.user_error import UserError
from datamodules.decoding.image_file import UnreadableImageError
from datamodules.loading.loader import TimedLoader, available_cores
from datamodules.loading.progress import progress
from datamodules.packing.pack import Images
from scripts.data_quality.listing import view

# Bits of 64 in which the perceptual hashes of one picture may differ. Of Tiny ImageNet's images saved anew (JPEG of
# quality 20 and above, 10% brighter, resized to half, three quarters or double) all stay within 8.
HASH_DISTANCE = 10

DETAIL = 32  # pixels of a side of the reduced image whose details are compared
AREA = 8  # pixels of a side of the areas whose mean is subtracted, so that a bright sky over dark ground is no likeness

# Two images whose details correlate as much are one picture: of the pairs in Tiny ImageNet within the distance above,
# the three that are one to the eye have 0.90 and more, the best of the others 0.84; of its images saved at three
# quarters of their size, 10% brighter, as JPEG of quality 40, 99% are above it.
LIKENESS = 0.85

# The same for images that are alike by nature: pairs of Fashion-MNIST from here on show one garment, a few of them in
# another print, and MNIST, whose ones are alike up to 0.989, has none. The cost: of 28x28 images saved as JPEG of
# quality 40 it finds one in four (MNIST) or twelve (Fashion-MNIST), of resized ones none.
SURE_LIKENESS = 0.99

LOOKALIKES = 4  # an image is alike by nature if the hashes of more other pictures than this are near its own
SMALLEST = 16  # pixels of a side from which images are compared: of two digits of 8x8 nobody can say if they are one
FLAT = 4.0  # an image is compared if it departs from the means of its areas by as many levels of grey somewhere
CHUNK_IMAGES = 64  # images that a worker takes at a time
CHUNK_PAIRS = 2**13  # pairs whose details are compared at a time, 64 MiB
BLOCK_PAIRS = 2**22  # pairs whose hashes are compared at a time, 32 MiB


@dataclass(frozen=True)
class Fingerprints:
    """What duplicates are found by; an unreadable image has zeros and its error."""

    digests: NDArray[np.uint64]  # of size and pixels, [N]
    hashes: NDArray[np.uint64]  # perceptual, [N]
    details: NDArray[np.int8]  # a small grey version less the means of its areas, [N, 1024]; zeros for a flat image
    sizes: NDArray[np.int64]  # width and height as stored, [N, 2]
    modes: NDArray[np.object_]  # Pillow's names of the kinds of pixels, [N]
    errors: NDArray[np.object_]  # why an image cannot be read, or an empty text, [N]


class Pair(NamedTuple):
    """Two images that are one picture, by their places."""

    first: int
    second: int
    hash_distance: int = 0  # in bits
    likeness: float = 1.0  # the correlation of their details
    exact: bool = False


def perceptual_hash() -> Any:
    """The function of imagehash."""
    try:
        from imagehash import phash
    except ImportError as error:
        raise UserError(
            "scripts/audit.py finds near duplicates with imagehash, which is not installed; run "
            "pip install -e '.[data-quality]'."
        ) from error
    return phash


def fingerprint(image: Image.Image) -> tuple[int, NDArray[np.int8]]:
    """The perceptual hash of an image, 64 bits, and its details, int8 `[1024]`."""
    bits = np.packbits(perceptual_hash()(image).hash)
    small = image.convert("L").resize((DETAIL, DETAIL), Image.Resampling.BOX)
    areas = np.asarray(small, np.float32).reshape(DETAIL // AREA, AREA, DETAIL // AREA, AREA)
    details = areas - areas.mean(axis=(1, 3), keepdims=True)
    peak = np.abs(details).max()
    scale = 127 / peak if peak >= FLAT else 0
    return int.from_bytes(bits.tobytes(), "big"), np.rint(details * scale).astype(np.int8).ravel()


class _Fingerprinted(Dataset[Fingerprints]):
    """The fingerprints of a range of images."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, indices: range) -> Fingerprints:
        size = len(indices)
        digests, hashes = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
        details, sizes = np.zeros((size, DETAIL**2), np.int8), np.zeros((size, 2), np.int64)
        modes, errors = (np.full(size, "", object) for _ in range(2))
        for row, index in enumerate(indices):
            try:
                levels, image, sizes[row], modes[row] = view(self.images, index)
            except UnreadableImageError as error:
                errors[row] = str(error)
                continue
            digest = blake2b(levels.tobytes(), digest_size=8, salt=b"%d %d" % image.size)
            digests[row] = int.from_bytes(digest.digest(), "big")
            hashes[row], details[row] = fingerprint(image)
        return Fingerprints(digests, hashes, details, sizes, modes, errors)


def fingerprint_all(images: Images) -> Iterator[Fingerprints]:
    """Decode and fingerprint images with all cores."""
    ranges = [range(start, min(start + CHUNK_IMAGES, len(images))) for start in range(0, len(images), CHUNK_IMAGES)]
    yield from TimedLoader(
        _Fingerprinted(images),
        batch_size=None,
        sampler=ranges,
        num_workers=min(available_cores(), len(ranges)),
    )


def concatenate(parts: list[Fingerprints]) -> Fingerprints:
    """Lay fingerprints end to end."""
    names = [each.name for each in fields(Fingerprints)]
    return Fingerprints(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def exact_pairs(prints: Fingerprints, places: NDArray[np.int64]) -> tuple[list[Pair], NDArray[np.int64]]:
    """Pair each copy with the image of the same pixels that stands first in `places`; also, a place for every picture.

    The latter keep the order of `places`.
    """
    order = np.argsort(prints.digests[places], kind="stable")
    digests = prints.digests[places[order]]
    new = np.append(True, digests[1:] != digests[:-1])[: len(order)]
    first_of = places[order[new]][np.cumsum(new) - 1]
    copies = sorted(zip(first_of[~new].tolist(), places[order[~new]].tolist(), strict=True))
    return [Pair(*pair, exact=True) for pair in copies], places[np.sort(order[new])]


def near_pairs(prints: Fingerprints, places: NDArray[np.int64]) -> list[Pair]:
    """Compare readable images, no two with the same pixels, and find pairs that are one picture saved in two ways.

    Perceptual hashes and details of the two must be close. Details must be closer if an image is smaller than the
    reduced image, or if the hashes of many other pictures are near its own. In a pair, the image that stands first in
    `places` is the first; the pairs that are most alike come first.
    """
    sides = prints.sizes.min(axis=1)
    places = places[prints.details[places].any(axis=1) & (sides[places] >= SMALLEST)]
    details = prints.details[places]
    norms = np.sqrt(np.einsum("nd,nd->n", details, details, dtype=np.float32))
    lookalikes = np.zeros(len(places), np.int64)
    alike: list[tuple[int, int, int, float]] = []
    for first, second, bits in _close_hashes(prints.hashes[places]):
        left, right = (details[ends].astype(np.float32) for ends in (first, second))
        likeness = np.einsum("pd,pd->p", left, right) / (norms[first] * norms[second])
        is_one = likeness >= LIKENESS
        for ends in (first, second):
            np.add.at(lookalikes, ends[~is_one], 1)
        alike += zip(*(column[is_one].tolist() for column in (first, second, bits, likeness)), strict=True)
    stands_out = (lookalikes <= LOOKALIKES) & (sides[places] >= DETAIL)
    pairs = [
        Pair(int(places[first]), int(places[second]), bits, likeness)
        for first, second, bits, likeness in alike
        if likeness >= SURE_LIKENESS or (stands_out[first] and stands_out[second])
    ]
    return sorted(pairs, key=lambda pair: -pair.likeness)


def _close_hashes(
    hashes: NDArray[np.uint64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
    """Pairs of places whose hashes are close, some at a time, with their distance in bits."""
    rows = max(1, BLOCK_PAIRS // max(1, len(hashes)))
    with progress("Comparing", len(hashes)) as advance:
        for start in range(0, len(hashes), rows):
            distances = np.bitwise_count(hashes[start : start + rows, None] ^ hashes[start:])
            first, second = np.divmod(np.flatnonzero(distances <= HASH_DISTANCE), distances.shape[1])
            ahead = np.flatnonzero(first < second)
            for some in np.split(ahead, range(CHUNK_PAIRS, len(ahead), CHUNK_PAIRS)):
                yield first[some] + start, second[some] + start, distances[first[some], second[some]]
            advance(len(distances))
