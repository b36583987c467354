"""What a frozen backbone makes of the images, on disk in the form it is read in.

Shapes: a split of `N` images in `V` augmented variants; features of one image of any shape `F`; a batch of `B` of them.
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
from datamodules.packing.checked_arrays import (
    ArrayWriter,
    FirstReads,
    checksums,
    map_array,
    read_checked_facts,
    write_facts,
)

# Raised whenever the files below change their meaning; features of another version are computed again.
FORMAT_VERSION = 4

PREFIX = "features-"  # how the name of a cache's folder begins


class Features(Dataset[tuple[Tensor, Tensor]]):
    """Gives the features `[B, *F]` and labels int64 `[B]` of images by their numbers in the pack, int64 `[B]`.

    `indices` are the numbers of the split's images; of `V` variants, that of number `epoch() % V` is given. A loader
    can be made before `open_features` has found them.
    """

    def __init__(self, indices: Tensor, labels: Tensor, epoch: Callable[[], int]) -> None:
        self.labels = labels
        self.epoch = epoch
        self.size = len(indices)
        self._place = torch.full((len(labels),), -1)  # of each image of the pack in the split
        self._place[indices] = torch.arange(self.size)

    def open(self, folder: Path, split: str, dtype: torch.dtype) -> None:
        """Map the features of a split in a folder into memory."""
        array, written = map_array(folder / f"{split}.npy"), map_array(folder / f"{split}-checksums.npy")
        self._folder, self._first_reads = folder, FirstReads(written)
        rows = array.reshape(-1, *array.shape[2:])
        if len(array) != self.size or len(rows) != len(written) or self._first_reads.are_some_changed(rows):
            raise ValueError(f"those of {split} are not those that were written")
        self.variants = array.shape[1]
        self._rows = torch.from_numpy(rows).view(dtype)

    def __len__(self) -> int:
        return self.size

    def first(self, number: int) -> Tensor:
        """The first variant of the split's first images."""
        return self._rows[: number * self.variants : self.variants]

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        places = self._place.index_select(0, indices) * self.variants + self.epoch() % self.variants
        features = self._rows.index_select(0, places)
        if self._first_reads.changed(places.numpy(), features.flatten(1).view(torch.uint8).numpy()) is not None:
            raise UserError(
                f"{self._folder} holds other features than were written: its disk has damaged them; remove the folder, "
                "and they are computed again. A run goes on with --resume."
            )
        return features, self.labels.index_select(0, indices)


def open_features(folder: Path, key: str, splits: Mapping[str, Features]) -> None:
    """Map the features in a folder into memory; it is a ValueError if they are of another key, or damaged.

    A folder holds a file for each split, such as `train.npy` (`[N, V, *F]` in the dtype that the backbone gives;
    bfloat16, which NumPy does not have, as the int16 of the same bits), their checksums, such as `train-checksums.npy`
    (uint32 `[N * V]`), and `facts.json` (format version, key, fingerprint of the images, dtype, digest of all this).
    """
    try:
        facts = read_checked_facts(folder, FORMAT_VERSION, splits)
        if facts["key"] != key:
            raise ValueError("they were made from other weights, images or settings")
        for split, features in splits.items():
            features.open(folder, split, getattr(torch, facts["dtype"]))
    except Exception as error:  # of a damaged file, whatever its bytes happen to mean
        raise ValueError(f"{folder} holds no features that can be used: {error}") from error
    note_use(folder)


def write_features(
    folder: Path, key: str, fingerprint: str, splits: Mapping[str, tuple[int, Iterable[Tensor]]]
) -> None:
    """Write features so that the folder appears whole or not at all; only one process may write it at a time.

    Each of `splits` has the number of its images, and their features `[B, V, *F]`, some images at a time; `key` stands
    for everything that the features depend on, `fingerprint` for the images alone.
    """
    facts = {"version": FORMAT_VERSION, "key": key, "fingerprint": fingerprint}
    with whole_folder(folder) as part:
        for split, (images, chunks) in splits.items():
            written: list[NDArray[np.uint32]] = []
            with ArrayWriter(part / f"{split}.npy", images) as file:
                for features in chunks:
                    facts["dtype"] = str(features.dtype).removeprefix("torch.")
                    rows = (features.view(torch.int16) if features.dtype == torch.bfloat16 else features).numpy()
                    if not written:
                        check_space(part, rows[0].nbytes * images)
                    file.append(rows)
                    written.append(checksums(rows.reshape(-1, *rows.shape[2:])))
            np.save(part / f"{split}-checksums.npy", np.concatenate(written))
        write_facts(part, facts, splits)
