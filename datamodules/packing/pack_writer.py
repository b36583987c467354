"""Write a pack: read all images of a source, and store them with their labels, hashes and sums.

Shapes: `N` images of `C` channels, `H` rows and `W` columns; `K` classes.
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.durable_file import check_space, whole_folder
from core.names import escape_name
from core.user_error import UserError
from datamodules.loading.loader import TimedLoader, available_cores
from datamodules.loading.progress import progress
from datamodules.packing.array_writer import ArrayWriter, write_facts
from datamodules.packing.checked_arrays import checksums
from datamodules.packing.pack import CHUNK_BYTES, FINGERPRINT, FORMAT_VERSION, LARGE, Images, Rows, Source, files_of

if TYPE_CHECKING:
    from datamodules.decoding.pixel_format import Levels

# Up to so many copies of one image stay in one split. Further copies may go to another split, so that a source of few
# distinct images can be split, too.
TOGETHER = 8


@dataclass
class _Content:
    """What has been read of a source so far, besides the pixels."""

    arrays: dict[str, list[NDArray[Any]]] = field(default_factory=lambda: defaultdict(list))
    columns: dict[str, list[NDArray[Any]]] = field(default_factory=lambda: defaultdict(list))
    splits: dict[str, tuple[int, int]] = field(default_factory=dict)  # first index, and index behind the last
    skipped: list[tuple[str, str]] = field(default_factory=list)  # path and reason of each unreadable image

    def add(self, rows: Rows, indices: NDArray[np.int64], pixels: "Levels") -> None:
        """Add the images at `indices` of a split."""
        if files := files_of(rows.images):
            self.arrays["names"].append(files.names[indices])
        self.arrays["labels"].append(rows.labels[indices])
        self.arrays["sums"].append(image_sums(pixels))
        self.arrays["contents"].append(content_digests(pixels))
        self.arrays["checksums"].append(checksums(pixels))
        for name, values in rows.columns.items():
            self.columns[name].append(values[indices])


def write_pack(
    folder: Path, source: Source, class_names: Sequence[str], *, packed: bool = True, left_out: str = ""
) -> None:
    """Read every image of a source, and write a pack atomically; only one process may write a pack at a time.

    All cores decode image files. Unreadable images are left out, and listed with the reason; UserError is raised if no
    image is readable. `packed` stores the pixels. `left_out` is a summary of the source's other files.
    """
    rows_of = {split: Rows(*rows) for split, rows in source.items()}
    total = sum(len(rows.labels) for rows in rows_of.values())
    if not total:
        raise UserError(f"The data set for {folder.name} has no images; correct where it is read from.")
    images = next(iter(rows_of.values())).images
    files = files_of(images)
    with whole_folder(folder) as part:
        if packed:
            check_space(part, total * math.prod(images.shape[1:]) * images.dtype.itemsize)
        with (
            ArrayWriter(part / "images.npy", total) if packed else nullcontext() as images_file,
            progress(f"Reading {len(class_names)} classes", total) as advance,
        ):
            content = _Content()
            count = 0
            for split, rows in rows_of.items():
                start = count
                for indices, pixels, errors in _chunks(rows.images):
                    advance(len(indices) + len(errors))
                    content.skipped += errors
                    if len(indices):
                        content.add(rows, indices, pixels)
                        count += len(indices)
                        if images_file is not None:
                            images_file.append(pixels)
                content.splits[split] = start, count
        if not count:
            name, reason = content.skipped[0]
            raise UserError(
                f"None of the {total} files gives an image: {name} does not ({reason}); name another folder."
            )
        as_array = {"bit_depth": 16, "stored_bits": 16} if str(images.dtype).endswith("uint16") else {}
        facts = {
            "version": FORMAT_VERSION,
            "packed": packed,
            "files": files is not None,
            "columns": bool(content.columns),
            "shape": tuple(images.shape[1:]),
            "pixel_format": as_array if files is None else files.pixel_format.facts,
            "resize": None if files is None else files.resize,
            "source": "" if files is None else escape_name(str(files.folder)),
            "splits": content.splits,
            "skipped": content.skipped,
            "left_out": left_out,
            "fingerprint": FINGERPRINT + _write_arrays(part, content, class_names),
        }
        write_facts(part, facts, LARGE)


def _write_arrays(folder: Path, content: _Content, class_names: Sequence[str]) -> str:
    """Write all arrays and columns but the pixels, and return a hash of everything that training depends on."""
    arrays = {name: np.concatenate(parts) for name, parts in content.arrays.items()}
    contents = arrays.pop("contents")
    identities = path_digests(arrays["names"]) if "names" in arrays else contents
    arrays["digests"] = np.stack([separate_copies(identities), contents], axis=1)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    digest = blake2b(repr((content.splits, list(class_names))).encode(errors="surrogateescape"), digest_size=16)
    digest.update(arrays["labels"].astype("<i8").tobytes())
    digest.update(arrays["digests"].astype("<u8").tobytes())
    if content.columns:
        from datamodules.packing.columns import write_columns

        columns = {name: np.concatenate(parts) for name, parts in content.columns.items()}
        digest.update(write_columns(folder, columns))
    return digest.hexdigest()


def _chunks(images: Images) -> Iterator[tuple[NDArray[np.int64], "Levels", list[tuple[str, str]]]]:
    """Yield some images at a time: the indices and pixels of readable ones, and (path, reason) of unreadable ones."""
    size = max(1, CHUNK_BYTES // (math.prod(images.shape[1:]) * images.dtype.itemsize))
    ranges = [range(start, min(start + size, len(images))) for start in range(0, len(images), size)]
    files = files_of(images)
    if files is None:
        for chunk in ranges:
            pixels = images[chunk.start : chunk.stop]  # type: ignore[index]
            yield np.arange(chunk.start, chunk.stop), np.asarray(pixels), []
        return
    from datamodules.decoding.image_files import TryDecode

    workers = min(available_cores(), len(ranges))
    loader = TimedLoader(TryDecode(files, for_good=True), batch_size=None, sampler=ranges, num_workers=workers)
    for chunk, (decoded, errors) in zip(ranges, loader, strict=True):
        readable = np.setdiff1d(np.arange(len(chunk)), list(errors))
        skipped = [(os.fsdecode(files.names[chunk[row]]), reason) for row, reason in errors.items()]
        yield chunk.start + readable, decoded.numpy()[readable], skipped


def image_sums(images: "Levels") -> NDArray[np.int64]:
    """Return the exact sum and sum of squares of each channel of images `[N, C, H, W]`, int64 `[N, 2, C]`."""
    sums = np.empty((len(images), 2, images.shape[1]), np.int64)
    for row, image in enumerate(images.reshape(*images.shape[:2], -1)):  # a single image fits into the CPU's cache
        # float64 is exact up to 2**53, which 8-bit squares do not reach, and adds faster than int64.
        values = image.astype(np.float64 if images.dtype == np.uint8 else np.int64)
        sums[row] = values.sum(axis=1), np.einsum("cp,cp->c", values, values)
    return sums


def content_digests(images: "Levels") -> NDArray[np.uint64]:
    """Hash the pixels of each of the images `[N, C, H, W]`, uint64 `[N]`."""
    return _digests(image.data for image in np.ascontiguousarray(images).reshape(len(images), -1))


def path_digests(names: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """Hash each path, uint64 `[N]`."""
    return _digests(names.tolist())


def _digests(items: Iterable[bytes | memoryview]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(blake2b(item, digest_size=8).digest() for item in items), "<u8").astype(np.uint64)


def separate_copies(digests: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Change the hashes uint64 `[N]` of duplicates so that at most `TOGETHER` images share one."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    copies_before = np.arange(len(digests)) - np.searchsorted(ordered, ordered)
    separated = digests.copy()
    separated[order] += (copies_before // TOGETHER).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return separated


def identities(splits: Iterable[Images]) -> NDArray[np.uint64]:
    """Return the hash that decides the split of each image of a source: of its path or, without files, its pixels."""
    digests = []
    for images in splits:
        files = files_of(images)
        digests.append(content_digests(np.asarray(images)) if files is None else path_digests(files.names))
    return separate_copies(np.concatenate(digests))
