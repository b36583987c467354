"""A data set on disk in the form it is read in: written once, then mapped into memory.

Shapes: `N` images of `C` channels, `H` rows and `W` columns.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any, Never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from core.names import escape_name
from core.user_error import UserError
from core.whole_folder import note_use, refuse_too_much, whole_folder
from datamodules.decoding.image_file import UnreadableImageError
from datamodules.decoding.image_files import ImageFiles, TryDecode
from datamodules.loading.cores import available_cores
from datamodules.loading.loader import ON_FEWER_CORES, TimedLoader
from datamodules.loading.progress import progress
from datamodules.packing.first_read import FirstReads, checksums
from datamodules.packing.identity import by_copies, content_digests, path_digests

FORMAT_VERSION = 5  # raised whenever the files below change their meaning; packs of another version are made again

CHUNK_BYTES = 2**22  # bytes of images that are decoded, copied or summed at a time, so that packing needs little memory

# Images that are looked at when a pack is opened, so that one that lost its content is made again by itself.
CHECKED_IMAGES = 32

HEADER_BYTES = 128  # what precedes the values in a file of NumPy, unless the shape takes more than a line

# What fingerprints of images begin with; those of runs from before were of files, and say nothing of these.
FINGERPRINT = "content "

Images = NDArray[np.uint8] | ImageFiles  # images as an array uint8 `[N, C, H, W]`, or as files that are decoded to one

# What a data set reads: images and labels int64 `[N]` for each split that it comes with.
Source = Mapping[str, tuple[Images, NDArray[np.int64]]]


Splits = dict[str, tuple[int, int]]


class Pack(Dataset[tuple[Tensor, Tensor]]):
    """The images and labels of a data set that has been read once.

    A folder holds `images.npy` (uint8 `[N, C, H, W]`; absent when images are decoded from their files each time),
    `labels.npy` (int64 `[N]`), `sums.npy` (int64 `[N, 2, C]`: the sum and the sum of squares of each image's pixels,
    from which mean and standard deviation of any split follow exactly and at once), `digests.npy` (uint64 `[N, 2]`:
    what identifies each image, and its pixels, see `identity.py`), `checksums.npy` (uint32 `[N]`: the CRC-32 of each
    image's pixels), `names.npy` (bytes `[N]`: paths relative to the source's folder; absent when the source has
    no files) and `facts.json` (class names, the range of images of each split, files that could not be read, format
    version, and a digest of all of this but the pixels).

    Args:
        folder: A folder that `write_pack` has made.
        files: The source's folder, to decode images from their files instead of taking them from `images.npy`.
        label_map: The label to give for each label of the source, int64 `[K]`.

    Raises:
        ValueError: If the folder holds no whole pack of this version.
    """

    def __init__(self, folder: Path, files: Path | None = None, label_map: Tensor | None = None) -> None:
        self.folder = folder
        self.label_map = label_map
        try:
            facts = json.loads((folder / "facts.json").read_text())
            if facts["version"] != FORMAT_VERSION:
                raise ValueError(f"it was written by version {facts['version']}, this is {FORMAT_VERSION}")
            if facts.pop("digest") != _digest(folder, facts):
                raise ValueError("its labels or names are not those that were written")
            self.is_packed: bool = facts["packed"]
            images = self._map("images") if self.is_packed else None
            labels, sums, digests, written = map(self._map, ("labels", "sums", "digests", "checksums"))
            self.names: NDArray[np.bytes_] | None = self._map("names") if facts["files"] else None
        except Exception as error:  # of a damaged file, whatever its bytes happen to mean
            raise ValueError(f"{folder} is no whole pack: {error}") from error
        self.images: Tensor | None = None if images is None else torch.from_numpy(images)
        self.source_labels: Tensor = torch.from_numpy(labels)
        self.sums: Tensor = torch.from_numpy(sums)
        self.identities: NDArray[np.uint64] = digests[:, 0]
        """What an image's split is drawn by: a digest of its path or, without files, of its pixels."""
        self.contents: NDArray[np.uint64] = digests[:, 1]
        """A digest of each image's pixels."""
        self.fingerprint: str = facts["fingerprint"]
        """A digest of the images, their paths and labels, the same wherever and however they are packed."""
        self.shape: tuple[int, int, int] = tuple(facts["shape"])
        """(C, H, W) of the images."""
        self.splits: dict[str, range] = {name: range(*ends) for name, ends in facts["splits"].items()}
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in facts["skipped"]]
        """Path and reason of each file that could not be read and is not in the pack."""
        self.left_out: str = facts["left_out"]
        """How many other files of the source are no image of it, and why."""
        self.files: ImageFiles | None = None
        if files is not None:
            if self.names is None:
                raise ValueError(f"{folder} was not read from image files")
            self.files = ImageFiles(files, self.names, self.shape, facts["resize"])
        self._first_reads = FirstReads(written)
        self._check_some()
        note_use(folder)

    def _map(self, name: str) -> NDArray[Any]:
        # Copy-on-write: pages stay shared between processes, and torch has a writable array as it wants.
        mapped: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        return mapped

    def _check_some(self) -> None:
        """A disk that lost power may keep a file's length and lose its content."""
        if self.images is not None and len(self):
            some = torch.linspace(0, len(self) - 1, min(CHECKED_IMAGES, len(self))).long()
            if self._first_reads.changed(some.numpy(), self.images[some].numpy()) is not None:
                raise ValueError(f"{self.folder} is no whole pack: its images are not those that were written")

    def __len__(self) -> int:
        return len(self.source_labels)

    @property
    def labels(self) -> Tensor:
        """All labels, int64 `[N]`."""
        return self.source_labels if self.label_map is None else self.label_map[self.source_labels]

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Gather a batch: indices int64 `[B]` to images uint8 `[B, C, H, W]` and labels int64 `[B]`.

        Raises:
            UserError: If an image is not what it was when the data set was read.
        """
        labels = self.source_labels.index_select(0, indices)
        if self.label_map is not None:
            labels = self.label_map.index_select(0, labels)
        if self.files is None:
            assert self.images is not None, "a pack without images is opened with their files"
            images = self.images.index_select(0, indices)
        else:
            try:
                images = torch.from_numpy(self.files[indices.numpy()])
            except UnreadableImageError as error:
                raise UserError(
                    f"{error}, though it could be read before; restore the file and go on from the last checkpoint."
                ) from error
        changed = self._first_reads.changed(indices.numpy(), images.numpy())
        if changed is not None:
            self._refuse_changed(int(indices[changed]))
        return images, labels

    def _refuse_changed(self, place: int) -> Never:
        if self.files is None:
            what = (
                f"{self.folder} holds other pixels of {self.name(place)} than were written: its disk has damaged them"
            )
        else:
            what = f"{self.files.path(place)} gives other pixels than when the data set was read: it has changed since"
        raise UserError(
            f"{escape_name(what)}; read the data set anew with --data.repack true. A run goes on with --resume."
        )

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path, Path | None, Tensor | None]]:
        """Travel to a worker process as a path; the mapping is opened again there."""
        return Pack, (self.folder, self.files.folder if self.files else None, self.label_map)

    def name(self, place: int) -> str:
        """The path of an image in the source's folder, or its split and place there, as in `train[123]`."""
        if self.names is not None:
            return os.fsdecode(self.names[place])
        return next(f"{split}[{place - ends.start}]" for split, ends in self.splits.items() if place in ends)

    def mean_and_std(self, indices: Tensor) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over the pixels of some images, on the scale [0, 1].

        Args:
            indices: The images, int64 `[N]`.

        Returns:
            Two lists of `C` numbers, exact but for the last rounding.
        """
        pixels = len(indices) * self.shape[1] * self.shape[2]
        means, stds = [], []
        for total, squares in self.sums[indices].sum(dim=0).T.tolist():
            means.append(total / pixels / 255)
            stds.append((pixels * squares - total**2) ** 0.5 / pixels / 255)
        return means, stds


def image_sums(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum and sum of squares of each channel of images uint8 `[N, C, H, W]`, int64 `[N, 2, C]`, exactly."""
    sums = np.empty((len(images), 2, images.shape[1]), np.int64)
    for row, image in enumerate(images.reshape(*images.shape[:2], -1)):  # an image at a time stays in the cache
        values = image.astype(np.float64)  # exact up to 2**53, and summed faster than integers
        sums[row] = values.sum(axis=1), np.einsum("cp,cp->c", values, values)
    return sums


def write_pack(
    folder: Path, source: Source, class_names: Sequence[str], *, packed: bool = True, left_out: str = ""
) -> None:
    """Read every image and write a pack so that the folder appears whole or not at all.

    Image files are decoded by all cores. Those that cannot be read are left out and listed with the reason. Only one
    process may write the same pack at a time.

    Args:
        folder: Where the pack is to be; anything there is replaced.
        source: Images and labels by split, as `datamodules.packing.source_check.checked` gives them.
        class_names: One name for each label.
        packed: Whether to keep the pixels, or of files only what is known about them.
        left_out: What to say of other files.

    Raises:
        UserError: If there is no image, or a file cannot be read this time for a reason that may pass.
        OSError: If the folder cannot be written.
    """
    total = sum(len(labels) for _, labels in source.values())
    if not total:
        raise UserError(f"The data set for {folder.name} has no images; correct where it is read from.")
    with whole_folder(folder) as part:
        if packed:
            refuse_too_much(part, sum(math.prod(images.shape) for images, _ in source.values()))
        _write_parts(part, source, class_names, total, packed, left_out)


def _write_parts(
    part: Path, source: Source, class_names: Sequence[str], total: int, packed: bool, left_out: str
) -> None:
    some = next(images for images, _ in source.values())
    shape = tuple(some.shape[1:])
    kept_labels, kept_names, kept_contents, kept_checksums, skipped, splits, end = [], [], [], [], [], {}, 0
    with ExitStack() as open_files:
        opened = open_files.enter_context
        pixels = opened(_Array(part / "images.npy", total, shape, np.uint8)) if packed else None
        sums = opened(_Array(part / "sums.npy", total, (2, shape[0]), np.int64))
        advance = opened(progress(f"Reading {len(class_names)} classes", total))
        for split, (images, labels) in source.items():
            start, seen = end, 0
            for chunk, errors in _chunks(images):
                rows = np.arange(seen, seen + len(chunk))
                seen += len(chunk)
                if errors:
                    assert isinstance(images, ImageFiles)
                    skipped += [(os.fsdecode(images.names[rows[row]]), reason) for row, reason in errors.items()]
                    whole = np.setdiff1d(np.arange(len(rows)), list(errors))
                    chunk, rows = chunk[whole], rows[whole]
                if pixels is not None:
                    pixels.append(chunk)
                sums.append(image_sums(chunk))
                kept_labels.append(labels[rows])
                kept_contents.append(content_digests(chunk))
                kept_checksums.append(checksums(chunk))
                if isinstance(images, ImageFiles):
                    kept_names.append(images.names[rows])
                end += len(rows)
                advance(len(rows) + len(errors))
            splits[split] = (start, end)
        for array in (pixels, sums):
            if array is not None:
                array.finish(end)
    all_labels, contents = np.concatenate(kept_labels).astype(np.int64), np.concatenate(kept_contents)
    known_by = contents
    if kept_names:
        names = np.concatenate(kept_names)
        np.save(part / "names.npy", names)
        known_by = path_digests(names)
    digests = np.stack([by_copies(known_by), contents], axis=1)
    np.save(part / "labels.npy", all_labels)
    np.save(part / "digests.npy", digests)
    np.save(part / "checksums.npy", np.concatenate(kept_checksums))
    facts = {
        "version": FORMAT_VERSION,
        "packed": packed,
        "files": bool(kept_names),
        "shape": shape,
        "resize": some.resize if isinstance(some, ImageFiles) else None,
        "source": escape_name(str(some.folder)) if isinstance(some, ImageFiles) else "",
        "splits": splits,
        "skipped": skipped,
        "left_out": left_out,
        "class_names": list(class_names),
        "fingerprint": _fingerprint(all_labels, digests, splits, class_names),
    }
    (part / "facts.json").write_text(json.dumps(facts | {"digest": _digest(part, facts)}, indent=2))


def _fingerprint(labels: NDArray[np.int64], digests: NDArray[np.uint64], splits: Splits, names: Sequence[str]) -> str:
    digest = blake2b(repr((splits, list(names))).encode(errors="surrogateescape"), digest_size=16)
    digest.update(labels.astype("<i8").tobytes())
    digest.update(digests.astype("<u8").tobytes())
    return FINGERPRINT + digest.hexdigest()


def _digest(folder: Path, facts: Mapping[str, Any]) -> str:
    """Digest of all files of a pack except the pixels: each image has a checksum of its own."""
    digest = blake2b(json.dumps(facts).encode(), digest_size=16)
    for path in sorted(folder.glob("*.npy")):
        with path.open("rb") as file:
            digest.update(file.read(HEADER_BYTES if path.stem == "images" else -1))
    return digest.hexdigest()


class _Array(AbstractContextManager["_Array"]):
    """An array file that grows by rows, up to a number of them."""

    def __init__(self, path: Path, most: int, shape: Sequence[int], dtype: type[np.generic]) -> None:
        self._header = (shape, np.dtype(dtype))
        self._file = path.open("wb")
        self._write_header(most)
        self._space = self._file.tell()

    def _write_header(self, rows: int) -> None:
        shape, dtype = self._header
        header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(rows).data)

    def finish(self, rows: int) -> None:
        """Write the number of rows that there are now; NumPy leaves room for a shorter number in the header."""
        self._file.seek(0)
        self._write_header(rows)
        assert self._file.tell() == self._space

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _chunks(images: Images) -> Iterator[tuple[NDArray[np.uint8], dict[int, str]]]:
    """The images in order, some at a time, with the reasons for those that cannot be read."""
    size = max(1, CHUNK_BYTES // math.prod(images.shape[1:]))
    ranges = [range(start, min(start + size, len(images))) for start in range(0, len(images), size)]
    if not isinstance(images, ImageFiles):
        yield from ((np.asarray(images[rows.start : rows.stop]), {}) for rows in ranges)
        return
    workers = min(available_cores(), len(ranges))
    for chunk, errors in TimedLoader(
        TryDecode(images, for_good=True), batch_size=None, sampler=ranges, num_workers=workers, remedy=ON_FEWER_CORES
    ):
        yield chunk.numpy(), errors
