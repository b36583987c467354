"""What a frozen backbone makes of the images, on disk in the form it is read in.

Shapes: a split of `N` images in `V` augmented variants; features of one image of any shape `F`; a batch of `B` of them.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.user_error import UserError
from core.whole_folder import note_use, refuse_too_much, whole_folder
from datamodules.batching.sampler import KeyedBatchSampler
from datamodules.packing.first_read import FirstReads, checksums

# Raised whenever the files below change their meaning; features of another version are computed again.
FORMAT_VERSION = 3

PREFIX = "features-"  # what the name of a cache's folder begins with

# Images of each split that are looked at when features are opened, so that damaged ones are computed again.
CHECKED_ROWS = 32

# The variant, the place in its split of the first image, and features `[B, *F]` of that image and those behind it.
Chunk = tuple[int, int, Tensor]


class Features:
    """The features of the images of some splits, to be drawn from by the numbers that the images have in their pack.

    They may be drawn from once `open` has found them, so that loaders can be made before.

    A folder holds a file for each split, such as `train.npy` (`[V, N, *F]` in the dtype that the backbone gives;
    bfloat16, which NumPy does not have, as the int16 of the same bits), their checksums, such as `train-checksums.npy`
    (uint32 `[V, N]`), and `facts.json` (format version, what the features were made from, dtype, checksums of these).

    Args:
        splits: The numbers in the pack of the images of each split, int64 `[N]`.
        labels: The labels of all images of the pack, int64.
    """

    def __init__(self, splits: Mapping[str, Tensor], labels: Tensor) -> None:
        self.splits = dict(splits)
        self.labels = labels
        self.arrays: dict[str, Tensor] = {}
        """The features of each split, `[V, N, *F]`, mapped into memory; none until they are opened."""
        self._first_reads: dict[str, FirstReads] = {}
        self._folder = Path()
        self._rows: dict[str, Tensor] = {}
        for split, indices in self.splits.items():
            self._rows[split] = torch.full((len(labels),), -1)
            self._rows[split][indices] = torch.arange(len(indices))

    def open(self, folder: Path, made_from: str) -> None:
        """Map the features in a folder into memory."""
        arrays, first_reads = {}, {}
        try:
            facts = json.loads((folder / "facts.json").read_text())
            if facts["version"] != FORMAT_VERSION:
                raise ValueError(f"they were written by version {facts['version']}, this is {FORMAT_VERSION}")
            if facts["made_from"] != made_from:
                raise ValueError("they were made from other weights, images or settings")
            dtype = getattr(torch, facts["dtype"])
            for split, indices in self.splits.items():
                # Copy-on-write: pages stay shared between processes, and torch has a writable array as it wants.
                array = np.load(folder / f"{split}.npy", mmap_mode="c", allow_pickle=False)
                written = np.load(folder / f"{split}-checksums.npy", allow_pickle=False)
                rows = array.reshape(-1, *array.shape[2:])
                some = np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows))).astype(np.int64)
                reads = first_reads[split] = FirstReads(written.ravel())
                if (
                    array.shape[:2] != written.shape
                    or array.shape[1] != len(indices)
                    or zlib.crc32(written.data) != facts["checksums"][split]
                    or reads.changed(some, rows[some]) is not None
                ):
                    raise ValueError(f"those of {split} are not those that were written")
                arrays[split] = torch.from_numpy(array).view(dtype)
        except Exception as error:  # of a damaged file, whatever its bytes happen to mean
            raise ValueError(f"{folder} holds no features that can be used: {error}") from error
        self.arrays, self._first_reads, self._folder = arrays, first_reads, folder
        note_use(folder)

    def batches(self, split: str, sampler: KeyedBatchSampler) -> "FeatureBatches":
        """The data set that a loader of the split draws from, with the variant that is due in the sampler's epoch."""
        return FeatureBatches(self, split, sampler)

    def gather(self, split: str, variant: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Gather a batch.

        Args:
            split: The split.
            variant: The variant; of `V` there are, number `variant % V` is taken.
            indices: Numbers of images in the pack, int64 `[B]`, all of the split.

        Returns:
            Features `[B, *F]` and labels int64 `[B]`.

        Raises:
            UserError: If they are not what was written.
        """
        array, rows = self.arrays[split], self._rows[split].index_select(0, indices)
        number = variant % len(array)
        features = array[number].index_select(0, rows)
        places = (number * array.shape[1] + rows).numpy()
        if self._first_reads[split].changed(places, features.flatten(1).view(torch.uint8).numpy()) is not None:
            raise UserError(
                f"{self._folder} holds other features than were written: its disk has damaged them; remove the folder, "
                "and they are computed again. A run goes on with --resume."
            )
        return features, self.labels.index_select(0, indices)


class FeatureBatches(Dataset[tuple[Tensor, Tensor]]):
    """Gives the features `[B, *F]` and labels int64 `[B]` of image numbers int64 `[B]`.

    It must be read in the process that the sampler is in, whose epoch it follows.

    Args:
        features: The features.
        split: The split to draw from.
        sampler: What the image numbers come from.
    """

    def __init__(self, features: Features, split: str, sampler: KeyedBatchSampler) -> None:
        self.features = features
        self.split = split
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.features.splits[self.split])

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.features.gather(self.split, self.sampler.epoch, indices)


def write_features(
    folder: Path, made_from: str, sizes: Mapping[str, tuple[int, int]], chunks: Mapping[str, Iterable[Chunk]]
) -> None:
    """Write features so that the folder appears whole or not at all.

    Only one process may write the same folder at a time; what one that was killed has left is removed.
    """
    facts: dict[str, Any] = {"version": FORMAT_VERSION, "made_from": made_from, "checksums": {}}
    with whole_folder(folder) as part:
        for split, (variants, images) in sizes.items():
            with (part / f"{split}.npy").open("wb") as file:
                start_of_rows = 0
                for variant, start, features in chunks[split]:
                    facts["dtype"] = str(features.dtype).removeprefix("torch.")
                    if features.dtype == torch.bfloat16:
                        features = features.view(torch.int16)
                    rows = np.ascontiguousarray(features.numpy())
                    if not start_of_rows:
                        refuse_too_much(part, rows[0].nbytes * variants * images)
                        written = np.zeros((variants, images), np.uint32)
                        shape = (variants, images, *rows.shape[1:])
                        header = {"descr": rows.dtype.str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                        start_of_rows = file.tell()
                    # Written and not mapped: a mapped file that outgrows the disk ends the process by a signal.
                    file.seek(start_of_rows + (variant * images + start) * rows[0].nbytes)
                    file.write(rows.data)
                    written[variant, start : start + len(rows)] = checksums(rows)
            np.save(part / f"{split}-checksums.npy", written)
            facts["checksums"][split] = zlib.crc32(written.data)
        (part / "facts.json").write_text(json.dumps(facts, indent=2))
