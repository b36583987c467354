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
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.sampler import KeyedBatchSampler
from datamodules.whole_folder import refuse_too_much, whole_folder

FORMAT_VERSION = 2
"""Raised whenever the files below change their meaning; features of another version are computed again."""

CHECKED_ROWS = 32
"""Images of each split whose checksums are compared when features are opened."""

Chunk = tuple[int, int, Tensor]
"""The variant, the place in its split of the first image, and features `[B, *F]` of that image and those behind it."""


class Features:
    """The features of the images of some splits, to be drawn from by the numbers that the images have in their pack.

    They may be drawn from once `open` has found them, so that loaders can be made before.

    A folder holds a file for each split, such as `train.npy` (`[V, N, *F]` in the dtype that the backbone gives;
    bfloat16, which NumPy does not have, as the int16 of the same bits), and `facts.json` (format version, what the
    features were made from, dtype, checksums of some images).

    Args:
        splits: The numbers in the pack of the images of each split, int64 `[N]`.
        labels: The labels of all images of the pack, int64.
    """

    def __init__(self, splits: Mapping[str, Tensor], labels: Tensor) -> None:
        self.splits = dict(splits)
        self.labels = labels
        self.arrays: dict[str, Tensor] = {}
        """The features of each split, `[V, N, *F]`, mapped into memory; none until they are opened."""
        self._rows: dict[str, Tensor] = {}
        for split, indices in self.splits.items():
            self._rows[split] = torch.full((len(labels),), -1)
            self._rows[split][indices] = torch.arange(len(indices))

    def open(self, folder: Path, made_from: str) -> None:
        """Map the features in a folder into memory.

        Args:
            folder: A folder that `write_features` has made.
            made_from: What they must have been made from.

        Raises:
            ValueError: If the folder holds no whole features of this version, or they were made from something else.
        """
        arrays = {}
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
                if array.shape[1] != len(indices) or _checksums(array) != facts["checksums"][split]:
                    raise ValueError(f"those of {split} are not those that were written")
                arrays[split] = torch.from_numpy(array).view(dtype)
        except Exception as error:  # of a damaged file, whatever its bytes happen to mean
            raise ValueError(f"{folder} holds no features that can be used: {error}") from error
        self.arrays = arrays

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
        """
        array, rows = self.arrays[split], self._rows[split].index_select(0, indices)
        return array[variant % len(array)].index_select(0, rows), self.labels.index_select(0, indices)


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

    Args:
        folder: Where the features are to be; anything there is replaced.
        made_from: What they are made from, in words that are compared when they are opened.
        sizes: The number of variants, V, and of images, N, of each split.
        chunks: The features of each split, every image in every variant once; all of one shape and dtype.

    Raises:
        OSError: If the folder cannot be written.
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
                        shape = (variants, images, *rows.shape[1:])
                        header = {"descr": rows.dtype.str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                        start_of_rows = file.tell()
                    # Written and not mapped: a mapped file that outgrows the disk ends the process by a signal.
                    file.seek(start_of_rows + (variant * images + start) * rows[0].nbytes)
                    file.write(rows.data)
            facts["checksums"][split] = _checksums(np.load(part / f"{split}.npy", mmap_mode="r"))
        (part / "facts.json").write_text(json.dumps(facts, indent=2))


def _checksums(array: NDArray[Any]) -> list[int]:
    """Of some rows: a disk that lost power may keep a file's length and lose its content."""
    rows = np.linspace(0, array.shape[1] - 1, min(CHECKED_ROWS, array.shape[1])).astype(int)
    return [zlib.crc32(np.ascontiguousarray(variant[row]).data) for variant in array for row in rows]
