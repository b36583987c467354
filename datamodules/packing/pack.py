"""A data set on disk in the form it is read in: written once, then mapped into memory.

Shapes: `N` images of `C` channels, `H` rows and `W` columns.
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from core.durable_file import check_space, note_use, whole_folder
from core.names import escape_name
from core.user_error import UserError
from datamodules.loading.loader import TimedLoader, available_cores
from datamodules.loading.progress import progress
from datamodules.packing import checked_arrays as arrays

if TYPE_CHECKING:
    from datamodules.decoding.image_files import ImageFiles
    from datamodules.decoding.pixel_format import Levels

FORMAT_VERSION = 6  # raised whenever the files below change their meaning; packs of another version are made again

LARGE = ("images",)  # the arrays whose rows have checksums

MOST_BYTES_ON_DEVICE = 2**31  # of images; more would have to be read before training begins
SHARE_OF_DEVICE = 8  # of a GPU's free memory, one part in this many

TOGETHER = 8  # copies of one image that are in one split; more are not, so that a source of few images has splits, too

CHUNK_BYTES = 2**22  # bytes of images that are decoded, copied or summed at a time, so that packing needs little memory

# How fingerprints of images begin; those of runs from before were digests of files, and cannot be compared with these.
FINGERPRINT = "content "

# Images as an array uint8 or uint16 `[N, C, H, W]`, or as files that are decoded to one.
Images: TypeAlias = "Levels | ImageFiles"


class Rows(NamedTuple):
    """The images of a split, with what the source says of each.

    Labels are int64 `[N]`, or uint8 `[N, K]` of 0 and 1 where an image has several. Each column is text or numbers,
    `[N]`. Images of one `group` (text) are never in two splits; `fold` (0, 1, ...) gives the folds; an image's share of
    an epoch of training is as its `weight` (above 0). Other columns are carried along.
    """

    images: Images
    labels: NDArray[np.integer[Any]]
    columns: Mapping[str, NDArray[Any]] = MappingProxyType({})


# What a data set reads, for each split that it comes with; a pair is `Rows` without columns.
Source = Mapping[str, Rows | tuple[Images, NDArray[np.integer[Any]]]]


class Pack(Dataset[tuple[Tensor, Tensor]]):
    """The images and labels of a data set that has been read once.

    A folder holds `images.npy` (`Levels` `[N, C, H, W]`; absent when images are decoded from their files each time),
    `labels.npy` (int64 `[N]` or uint8 `[N, K]`), `sums.npy` (int64 `[N, 2, C]`: sum and sum of squares of each image's
    pixels), `digests.npy` (uint64 `[N, 2]`: what identifies each image, and its pixels), `checksums.npy` (uint32 `[N]`:
    the CRC-32 of each image's pixels), `names.npy` (bytes `[N]`: paths in the source's folder, if it has files),
    `columns.parquet` (if it has columns), and `facts.json` (all else, and a digest of all of this but the pixels).

    With `files`, the source's folder, images are decoded from their files instead of taken from `images.npy`;
    `label_map`, int64 `[K]`, has the label to give for each label of the source, -1 for one that is not used. It is a
    ValueError if the folder holds no whole pack of this version.
    """

    def __init__(self, folder: Path, files: Path | None = None, label_map: Tensor | None = None) -> None:
        self.folder = folder
        self.label_map = label_map
        try:
            facts = arrays.read_checked_facts(folder, FORMAT_VERSION, LARGE)
            names = ["labels", "sums", "digests", "checksums"]
            names += ["images"] * facts["packed"] + ["names"] * facts["files"]
            mapped = {name: arrays.map_array(folder / f"{name}.npy") for name in names}
            self._first_reads = arrays.FirstReads(mapped["checksums"])
            if facts["packed"] and self._first_reads.are_some_changed(mapped["images"]):
                raise ValueError("its images are not those that were written")
            if files and not facts["files"]:
                raise ValueError("it was not read from image files")
            self.files = _files_of_pack(files, mapped["names"], facts) if files else None
        except Exception as error:  # of a damaged file, whatever its bytes happen to mean
            raise ValueError(f"{folder} is no whole pack: {error}") from error
        self.images: Tensor | None = torch.from_numpy(mapped["images"]) if facts["packed"] else None
        self._source_labels: Tensor = torch.from_numpy(mapped["labels"])
        self.sums: Tensor = torch.from_numpy(mapped["sums"])
        self.names: NDArray[np.bytes_] | None = mapped.get("names")
        # What an image's split is drawn by: a digest of its path or, without files, of its pixels.
        self.identities: NDArray[np.uint64] = mapped["digests"][:, 0]
        self.contents: NDArray[np.uint64] = mapped["digests"][:, 1]  # a digest of each image's pixels
        # A digest of the images, their paths and labels, the same wherever and however they are packed.
        self.fingerprint: str = facts["fingerprint"]
        self.shape: tuple[int, int, int] = tuple(facts["shape"])
        self.pixel_facts: dict[str, Any] = facts["pixel_format"]  # `PixelFormat.facts` of the images
        self.highest = 65535 if self.pixel_facts.get("bit_depth") == 16 else 255  # the highest level
        self.splits: dict[str, range] = {name: range(*ends) for name, ends in facts["splits"].items()}
        # Path and reason of each file that could not be read and is not in the pack.
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in facts["skipped"]]
        self.left_out: str = facts["left_out"]  # how many other files of the source are no image of it, and why
        self._has_columns: bool = facts["columns"]
        note_use(folder)

    def __len__(self) -> int:
        return len(self._source_labels)

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """What the source says of each image besides its label, `[N]` each: text (as objects), int64 or float64."""
        if not self._has_columns:
            return {}
        from datamodules.packing.columns import read_columns

        return read_columns(self.folder)

    @property
    def labels(self) -> Tensor:
        """All labels, int64 `[N]` or uint8 `[N, K]`."""
        labels = self._source_labels
        return labels if self.label_map is None else selected_labels(labels, self.label_map)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Gather a batch: indices int64 `[B]` to images `[B, C, H, W]` as stored, and labels `[B]` or `[B, K]`."""
        labels = self._source_labels.index_select(0, indices)
        if self.label_map is not None:
            labels = selected_labels(labels, self.label_map)
        if self.files is None:
            assert self.images is not None, "a pack without images is opened with their files"
            images = gathered(self.images, indices)
        else:
            images = torch.from_numpy(self.files[indices.numpy()])
        changed = self._first_reads.changed(indices.numpy(), images.numpy())
        if changed is not None:
            where = self.folder if self.files is None else self.files.folder
            raise UserError(
                f"{escape_name(str(where))} holds other pixels of {escape_name(self.name(int(indices[changed])))} than "
                "were read before; read the data set anew with --data.repack true. A run goes on with --resume."
            )
        return images, labels

    def fits_on(self, device: torch.device) -> bool:
        """Whether the pixels are packed, and `device` is a GPU with ample room for them."""
        if device.type != "cuda" or self.files is not None or self.images is None:
            return False
        return self.images.nbytes <= min(MOST_BYTES_ON_DEVICE, torch.cuda.mem_get_info(device)[0] // SHARE_OF_DEVICE)

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

        They are exact but for the last rounding.
        """
        pixels = len(indices) * self.shape[1] * self.shape[2]
        means, stds = [], []
        # Python's integers add up the parts: together, the squares of billions of pixels are above 2**63.
        parts = [part.sum(dim=0).numpy().astype(object) for part in torch.split(self.sums[indices], 256)]
        for total, squares in np.sum(parts, axis=0).T.tolist():
            means.append(total / pixels / self.highest)
            stds.append((pixels * squares - total**2) ** 0.5 / pixels / self.highest)
        return means, stds


def selected_labels(labels: Tensor, label_map: Tensor) -> Tensor:
    """A source's labels, int64 `[N]` or uint8 `[N, K]`, as those of the classes used, by the `label_map` of a pack."""
    if labels.ndim == 1:
        return label_map.index_select(0, labels)
    return labels[:, label_map.argsort()[(label_map < 0).sum() :]]


def gathered(images: Tensor, indices: Tensor) -> Tensor:
    """Some of the images uint8 or uint16 `[N, C, H, W]`; torch selects no uint16 before 2.13."""
    if images.dtype == torch.uint16:
        return images.view(torch.int16).index_select(0, indices).view(torch.uint16)
    return images.index_select(0, indices)


def content(facts: Mapping[str, Any]) -> str:
    """A short description of a pack by its facts."""
    images, shape = max(end for _, end in facts["splits"].values()), "x".join(map(str, facts["shape"]))
    return f"{images:,} images of {shape}" + (f" from {facts['source']}" if facts.get("source") else "")


def image_sums(images: "Levels") -> NDArray[np.int64]:
    """Sum and sum of squares of each channel of images `[N, C, H, W]`, int64 `[N, 2, C]`, exactly."""
    sums = np.empty((len(images), 2, images.shape[1]), np.int64)
    for row, image in enumerate(images.reshape(*images.shape[:2], -1)):  # an image at a time stays in the cache
        # Exact up to 2**53, which no squares of 8 bits reach, and summed faster than integers.
        values = image.astype(np.float64 if images.dtype == np.uint8 else np.int64)
        sums[row] = values.sum(axis=1), np.einsum("cp,cp->c", values, values)
    return sums


def write_pack(
    folder: Path, source: Source, class_names: Sequence[str], *, packed: bool = True, left_out: str = ""
) -> None:
    """Read every image and write a pack so that the folder appears whole or not at all.

    All cores decode image files. Files that cannot be read are left out and listed with the reason; `packed` keeps the
    pixels. Only one process may write the same pack at a time.
    """
    splits_read = {split: Rows(*rows) for split, rows in source.items()}
    total = sum(len(rows.labels) for rows in splits_read.values())
    if not total:
        raise UserError(f"The data set for {folder.name} has no images; correct where it is read from.")
    some = next(iter(splits_read.values())).images
    files = files_of(some)
    parts: dict[str, list[NDArray[Any]]] = defaultdict(list)
    columns: dict[str, list[NDArray[Any]]] = defaultdict(list)
    skipped: list[tuple[str, str]] = []
    splits, end = {}, 0
    with whole_folder(folder) as part:
        if packed:
            check_space(part, sum(math.prod(rows.images.shape) for rows in splits_read.values()) * some.dtype.itemsize)
        writer = arrays.ArrayWriter(part / "images.npy", total) if packed else nullcontext()
        with writer as pixels, progress(f"Reading {len(class_names)} classes", total) as advance:
            for split, rows in splits_read.items():
                start = end
                for places, chunk, errors in _chunks(rows.images):
                    advance(len(places) + len(errors))
                    skipped += errors
                    if not len(places):
                        continue
                    if pixels is not None:
                        pixels.append(chunk)
                    if names := files_of(rows.images):
                        parts["names"].append(names.names[places])
                    parts["labels"].append(rows.labels[places])
                    parts["sums"].append(image_sums(chunk))
                    parts["contents"].append(content_digests(chunk))
                    parts["checksums"].append(arrays.checksums(chunk))
                    for name, values in rows.columns.items():
                        columns[name].append(values[places])
                    end += len(places)
                splits[split] = (start, end)
        if not end:
            (name, reason), *_ = skipped
            raise UserError(
                f"None of the {total} files gives an image: {name} does not ({reason}); name another folder."
            )
        written = {name: np.concatenate(values) for name, values in parts.items()}
        contents = written.pop("contents")
        known_by = path_digests(written["names"]) if "names" in written else contents
        written["digests"] = np.stack([by_copies(known_by), contents], axis=1)
        for name, array in written.items():
            np.save(part / f"{name}.npy", array)
        digest = blake2b(repr((splits, list(class_names))).encode(errors="surrogateescape"), digest_size=16)
        digest.update(written["labels"].astype("<i8").tobytes())
        digest.update(written["digests"].astype("<u8").tobytes())
        if columns:
            from datamodules.packing.columns import write_columns

            digest.update(write_columns(part, {name: np.concatenate(values) for name, values in columns.items()}))
        as_array = {"bit_depth": 16, "stored_bits": 16} if str(some.dtype).endswith("uint16") else {}
        facts = {
            "version": FORMAT_VERSION,
            "packed": packed,
            "files": files is not None,
            "columns": bool(columns),
            "shape": tuple(some.shape[1:]),
            "pixel_format": as_array if files is None else files.pixel_format.facts,
            "resize": None if files is None else files.resize,
            "source": "" if files is None else escape_name(str(files.folder)),
            "splits": splits,
            "skipped": skipped,
            "left_out": left_out,
            "fingerprint": FINGERPRINT + digest.hexdigest(),
        }
        arrays.write_facts(part, facts, LARGE)


def _files_of_pack(folder: Path, names: NDArray[np.bytes_], facts: Mapping[str, Any]) -> "ImageFiles":
    from datamodules.decoding.image_files import ImageFiles
    from datamodules.decoding.pixel_format import PixelFormat

    return ImageFiles(folder, names, tuple(facts["shape"]), facts["resize"], PixelFormat.of(facts["pixel_format"]))


def files_of(images: Images) -> "ImageFiles | None":
    """The files of images that come as files, or None; they are told without loading what decodes them."""
    return cast("ImageFiles", images) if hasattr(images, "pixel_format") else None


def _chunks(images: Images) -> Iterator[tuple[NDArray[np.int64], "Levels", list[tuple[str, str]]]]:
    """Some images at a time: the places of those that can be read, their pixels, and names and reasons of others."""
    size = max(1, CHUNK_BYTES // (math.prod(images.shape[1:]) * images.dtype.itemsize))
    ranges = [range(start, min(start + size, len(images))) for start in range(0, len(images), size)]
    files = files_of(images)
    if files is None:
        for some in ranges:
            yield np.arange(some.start, some.stop), np.asarray(images[some.start : some.stop]), []  # type: ignore[index]
        return
    from datamodules.decoding.image_files import TryDecode

    workers = min(available_cores(), len(ranges))
    loader = TimedLoader(TryDecode(files, for_good=True), batch_size=None, sampler=ranges, num_workers=workers)
    for some, (chunk, errors) in zip(ranges, loader, strict=True):
        readable = np.setdiff1d(np.arange(len(some)), list(errors))
        skipped = [(os.fsdecode(files.names[some[row]]), reason) for row, reason in errors.items()]
        yield some.start + readable, chunk.numpy()[readable], skipped


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


def identities(parts: Iterable[Images]) -> NDArray[np.uint64]:
    """What the split of each image of a source is drawn by: its path where it is a file, else its pixels."""
    digests = [
        content_digests(np.asarray(each)) if (files := files_of(each)) is None else path_digests(files.names)
        for each in parts
    ]
    return by_copies(np.concatenate(digests))
