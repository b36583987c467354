"""Find duplicates (images with equal pixels) and near duplicates (one picture saved in two ways).

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

# Near duplicates have perceptual hashes that differ in at most so many of 64 bits. Copies of Tiny ImageNet's images,
# saved as JPEG of quality 20 and above, 10% brighter, or resized to half, three quarters or double, differ in up to 8.
HASH_DISTANCE = 10

DETAIL = 32  # side, in pixels, of the reduced image whose details are compared
AREA = 8  # side, in pixels, of the areas whose mean is subtracted, so that a bright sky over dark ground does not count

# Near duplicates have details with at least this correlation. Among the pairs in Tiny ImageNet with close hashes, the
# three that are one picture to the eye have 0.90 and more, the best of the others 0.84. Of its images saved at three
# quarters of their size, 10% brighter, as JPEG of quality 40, 99% are above it.
LIKENESS = 0.85

# The correlation for data sets whose images resemble each other. In Fashion-MNIST, pairs above it show one garment, a
# few of them in another print; MNIST, whose ones reach 0.989, has no such pair. The cost: of 28x28 images saved as JPEG
# of quality 40 it finds one in four (MNIST) or twelve (Fashion-MNIST), of resized ones none.
SURE_LIKENESS = 0.99

LOOKALIKES = 4  # more different images with close hashes than this make an image need `SURE_LIKENESS`
SMALLEST = 16  # side, in pixels, of the smallest images to compare: in 8x8 pixels, two digits cannot be told apart
FLAT = 4.0  # an image whose details are all below so many grey levels is not compared
CHUNK_IMAGES = 64  # images that a worker fingerprints at a time
CHUNK_PAIRS = 2**13  # pairs whose details are compared at a time, 64 MiB
BLOCK_PAIRS = 2**22  # pairs whose hashes are compared at a time, 32 MiB


@dataclass(frozen=True)
class Fingerprints:
    """What images are compared by; an unreadable image has zeros and an error."""

    digests: NDArray[np.uint64]  # hash of size and pixels, [N]
    hashes: NDArray[np.uint64]  # perceptual hash, [N]
    details: NDArray[np.int8]  # reduced grey image minus the means of its areas, [N, 1024]; zeros for a flat image
    sizes: NDArray[np.int64]  # stored width and height, [N, 2]
    modes: NDArray[np.object_]  # Pillow's mode, [N]
    errors: NDArray[np.object_]  # why an image is unreadable, or an empty text, [N]


class Pair(NamedTuple):
    """The indices of two images that are duplicates or near duplicates."""

    first: int
    second: int
    hash_distance: int = 0  # in bits
    likeness: float = 1.0  # correlation of the details
    exact: bool = False


def perceptual_hash() -> Any:
    """Return the hash function of imagehash; raise UserError if it is not installed."""
    try:
        from imagehash import phash
    except ImportError as error:
        raise UserError(
            "scripts/audit.py finds near duplicates with imagehash, which is not installed; run "
            "pip install -e '.[data-quality]'."
        ) from error
    return phash


def fingerprint(image: Image.Image) -> tuple[int, NDArray[np.int8]]:
    """Return the perceptual hash of an image, 64 bits, and its details, int8 `[1024]`."""
    bits = np.packbits(perceptual_hash()(image).hash)
    small = image.convert("L").resize((DETAIL, DETAIL), Image.Resampling.BOX)
    areas = np.asarray(small, np.float32).reshape(DETAIL // AREA, AREA, DETAIL // AREA, AREA)
    details = areas - areas.mean(axis=(1, 3), keepdims=True)
    peak = np.abs(details).max()
    scale = 127 / peak if peak >= FLAT else 0
    return int.from_bytes(bits.tobytes(), "big"), np.rint(details * scale).astype(np.int8).ravel()


class _FingerprintDataset(Dataset[Fingerprints]):
    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, indices: range) -> Fingerprints:
        size = len(indices)
        digests, hashes = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
        details, sizes = np.zeros((size, DETAIL**2), np.int8), np.zeros((size, 2), np.int64)
        modes, errors = np.full(size, "", object), np.full(size, "", object)
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
    """Decode and fingerprint images on all cores; yield `CHUNK_IMAGES` of them at a time, in order."""
    ranges = [range(start, min(start + CHUNK_IMAGES, len(images))) for start in range(0, len(images), CHUNK_IMAGES)]
    workers = min(available_cores(), len(ranges))
    yield from TimedLoader(_FingerprintDataset(images), batch_size=None, sampler=ranges, num_workers=workers)


def concatenate(chunks: list[Fingerprints]) -> Fingerprints:
    """Join chunks of fingerprints."""
    names = [field.name for field in fields(Fingerprints)]
    return Fingerprints(*(np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in names))


def exact_pairs(prints: Fingerprints, indices: NDArray[np.int64]) -> tuple[list[Pair], NDArray[np.int64]]:
    """Pair each copy among the images `indices` with the first such image; also return the indices without copies."""
    first_of: dict[int, int] = {}
    pairs = []
    for index, digest in zip(indices.tolist(), prints.digests[indices].tolist(), strict=True):
        first = first_of.setdefault(digest, index)
        if first != index:
            pairs.append(Pair(first, index, exact=True))
    return sorted(pairs), np.array(list(first_of.values()), np.int64)


def near_pairs(prints: Fingerprints, indices: NDArray[np.int64]) -> list[Pair]:
    """Find near duplicates among the images `indices`, which must be readable and free of duplicates.

    The hashes and the details of both images must be close. Details must be closer for images that are smaller than the
    reduced image, and for those whose hashes are close to many different images. In each pair, the first image is first
    in `indices`. The pairs are sorted from the most to the least alike.
    """
    sides = prints.sizes.min(axis=1)
    indices = indices[prints.details[indices].any(axis=1) & (sides[indices] >= SMALLEST)]
    details = prints.details[indices]
    norms = np.sqrt(np.einsum("nd,nd->n", details, details, dtype=np.float32))
    lookalikes = np.zeros(len(indices), np.int64)
    candidates: list[tuple[int, int, int, float]] = []
    for first, second, bits in _close_hashes(prints.hashes[indices]):
        products = np.einsum("pd,pd->p", details[first].astype(np.float32), details[second].astype(np.float32))
        likeness = products / (norms[first] * norms[second])
        is_alike = likeness >= LIKENESS
        np.add.at(lookalikes, first[~is_alike], 1)
        np.add.at(lookalikes, second[~is_alike], 1)
        candidates += zip(*(column[is_alike].tolist() for column in (first, second, bits, likeness)), strict=True)
    stands_out = (lookalikes <= LOOKALIKES) & (sides[indices] >= DETAIL)
    pairs = [
        Pair(int(indices[first]), int(indices[second]), bits, likeness)
        for first, second, bits, likeness in candidates
        if likeness >= SURE_LIKENESS or (stands_out[first] and stands_out[second])
    ]
    return sorted(pairs, key=lambda pair: -pair.likeness)


def _close_hashes(
    hashes: NDArray[np.uint64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
    """Yield chunks of pairs whose hashes are close: the first indices, the second ones, and the distances in bits."""
    rows = max(1, BLOCK_PAIRS // max(1, len(hashes)))
    with progress("Comparing", len(hashes)) as advance:
        for start in range(0, len(hashes), rows):
            distances = np.bitwise_count(hashes[start : start + rows, None] ^ hashes[start:])
            first, second = np.divmod(np.flatnonzero(distances <= HASH_DISTANCE), distances.shape[1])
            is_pair = first < second
            first, second = first[is_pair], second[is_pair]
            for chunk_start in range(0, len(first), CHUNK_PAIRS):
                chunk = slice(chunk_start, chunk_start + CHUNK_PAIRS)
                yield first[chunk] + start, second[chunk] + start, distances[first[chunk], second[chunk]]
            advance(len(distances))
