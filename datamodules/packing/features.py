"""Store the features that a frozen backbone computes from the images.

Shapes: a split of `N` images in `V` augmented variants; features of one image of any shape `F`; a batch of `B` images.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from core.durable_file import check_space, note_use, whole_folder
from core.user_error import UserError
from datamodules.packing.array_writer import ArrayWriter, write_facts
from datamodules.packing.checked_arrays import FirstReads, checksums, map_array, read_checked_facts

# Raised when the files below change their meaning; features of another version are computed again.
FORMAT_VERSION = 4

PREFIX = "features-"  # the folder name of a feature cache starts with this


class Features(Dataset[tuple[Tensor, Tensor]]):
    """Returns features `[B, *F]` and labels int64 `[B]` at image indices of the pack, int64 `[B]`.

    `indices`, int64 `[N]`, are the split's images, and `labels` those of the whole pack. The variant `epoch() % V` is
    used. A loader can be constructed before `open_features` maps the files.
    """

    def __init__(self, indices: Tensor, labels: Tensor, epoch: Callable[[], int]) -> None:
        self.labels = labels
        self.epoch = epoch
        self.size = len(indices)
        self._position = torch.full((len(labels),), -1)  # of each image of the pack in the split
        self._position[indices] = torch.arange(self.size)

    def open(self, folder: Path, split: str, dtype: torch.dtype) -> None:
        """Map the features of a split into memory; raise ValueError if they are damaged."""
        array = map_array(folder / f"{split}.npy")
        expected_checksums = map_array(folder / f"{split}-checksums.npy")
        self._folder = folder
        self._first_reads = FirstReads(expected_checksums)
        rows = array.reshape(-1, *array.shape[2:])
        has_all_rows = len(array) == self.size and len(rows) == len(expected_checksums)
        if not has_all_rows or self._first_reads.are_some_changed(rows):
            raise ValueError(f"those of {split} are not those that were written")
        self.variants = array.shape[1]
        self._rows = torch.from_numpy(rows).view(dtype)

    def __len__(self) -> int:
        return self.size

    def first(self, number: int) -> Tensor:
        """Return the first variant of the split's first images."""
        return self._rows[: number * self.variants : self.variants]

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        row_indices = self._position.index_select(0, indices) * self.variants + self.epoch() % self.variants
        features = self._rows.index_select(0, row_indices)
        if self._first_reads.changed(row_indices.numpy(), features.flatten(1).view(torch.uint8).numpy()) is not None:
            raise UserError(
                f"{self._folder} holds other features than were written: its disk has damaged them; remove the folder, "
                "and they are computed again. A run resumes with --resume."
            )
        return features, self.labels.index_select(0, indices)


def open_features(folder: Path, key: str, splits: Mapping[str, Features]) -> None:
    """Map the features in a folder into memory; raise ValueError if they have another key or are damaged.

    Each split has a file such as `train.npy`, `[N, V, *F]` in the backbone's dtype (bfloat16, which NumPy lacks, is
    stored as int16), and one such as `train-checksums.npy`, uint32 `[N * V]`. `facts.json` has the format version, key,
    fingerprint of the images, dtype, and a hash of all of this.
    """
    try:
        facts = read_checked_facts(folder, FORMAT_VERSION, splits)
        if facts["key"] != key:
            raise ValueError("they were made from other weights, images or settings")
        for split, features in splits.items():
            features.open(folder, split, getattr(torch, facts["dtype"]))
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{folder} holds no features that can be used: {error}") from error
    note_use(folder)


def write_features(
    folder: Path, key: str, fingerprint: str, splits: Mapping[str, tuple[int, Iterable[Tensor]]]
) -> None:
    """Write features atomically; only one process may write a folder at a time.

    `key` is a hash of everything that the features depend on, `fingerprint` one of the images alone. `splits` has the
    number of images of each split, and their features in chunks `[B, V, *F]`.
    """
    facts = {"version": FORMAT_VERSION, "key": key, "fingerprint": fingerprint}
    with whole_folder(folder) as part:
        for split, (image_count, chunks) in splits.items():
            split_checksums: list[NDArray[np.uint32]] = []
            with ArrayWriter(part / f"{split}.npy", image_count) as file:
                for features in chunks:
                    facts["dtype"] = str(features.dtype).removeprefix("torch.")
                    rows = (features.view(torch.int16) if features.dtype == torch.bfloat16 else features).numpy()
                    if not split_checksums:
                        check_space(part, rows[0].nbytes * image_count)
                    file.append(rows)
                    split_checksums.append(checksums(rows.reshape(-1, *rows.shape[2:])))
            np.save(part / f"{split}-checksums.npy", np.concatenate(split_checksums))
        write_facts(part, facts, splits)
