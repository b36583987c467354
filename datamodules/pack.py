"""A data set on disk in the form it is read in: written once, then mapped into memory.

Shapes: `N` images of `C` channels, `H` rows and `W` columns.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

FORMAT_VERSION = 1
"""Raised whenever the files below change their meaning; packs of another version are made again."""

CHUNK = 4096
"""Images that are copied or summed at a time, so that packing needs little memory."""

Source = Mapping[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]
"""What a data set reads: images uint8 `[N, C, H, W]` and labels int64 `[N]` for each split that it comes with."""


class Pack(Dataset[tuple[Tensor, Tensor]]):
    """The images and labels of a packed data set.

    A folder holds `images.npy` (uint8 `[N, C, H, W]`), `labels.npy` (int64 `[N]`), `sums.npy` (int64 `[N, 2, C]`: the
    sum and the sum of squares of each image's pixels, from which mean and standard deviation of any split follow
    exactly and at once) and `facts.json` (class names, the range of images of each split, format version).

    Args:
        folder: A folder that `write_pack` has made.

    Raises:
        ValueError: If the folder holds no whole pack of this version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            facts = json.loads((folder / "facts.json").read_text())
            images, labels, sums = (
                # Copy-on-write: pages stay shared between processes, and torch has a writable array as it wants.
                np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
                for name in ("images", "labels", "sums")
            )
            whole = facts["version"] == FORMAT_VERSION and {len(images), len(labels), len(sums)} == {facts["images"]}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{folder} is no whole pack: {error}") from error
        if not whole:
            raise ValueError(f"{folder} is no whole pack of version {FORMAT_VERSION}")
        self.images: Tensor = torch.from_numpy(images)
        self.labels: Tensor = torch.from_numpy(labels)
        self.sums: Tensor = torch.from_numpy(sums)
        self.splits: dict[str, range] = {name: range(*ends) for name, ends in facts["splits"].items()}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Gather a batch: indices int64 `[B]` to images uint8 `[B, C, H, W]` and labels int64 `[B]`."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path]]:
        """Travel to a worker process as a path; the mapping is opened again there."""
        return Pack, (self.folder,)

    def mean_and_std(self, indices: Tensor) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over the pixels of some images, on the scale [0, 1].

        Args:
            indices: The images, int64 `[N]`.

        Returns:
            Two lists of `C` numbers, exact but for the last rounding.
        """
        pixels = len(indices) * self.images.shape[2] * self.images.shape[3]
        means, stds = [], []
        for total, squares in self.sums[indices].sum(dim=0).T.tolist():
            means.append(total / pixels / 255)
            stds.append((pixels * squares - total**2) ** 0.5 / pixels / 255)
        return means, stds


def write_pack(folder: Path, source: Source, class_names: Sequence[str]) -> None:
    """Write a pack so that the folder appears whole or not at all.

    Args:
        folder: Where the pack is to be; anything there is replaced.
        source: Images and labels by split.
        class_names: One name for each label.

    Raises:
        MisconfigurationException: If there is no image, or a label is outside the classes.
        OSError: If the folder cannot be written.
    """
    for split, (images, labels) in source.items():
        if len(images) != len(labels):
            raise MisconfigurationException(
                f"The {split} split has {len(images)} images but {len(labels)} labels; each image needs one."
            )
        if len(outside := np.flatnonzero((labels < 0) | (labels >= len(class_names)))):
            raise MisconfigurationException(
                f"Label {labels[outside[0]]} of image {outside[0]} in the {split} split is outside the "
                f"{len(class_names)} classes, 0 to {len(class_names) - 1}; correct the label or add the class's name."
            )
    total = sum(len(labels) for _, labels in source.values())
    if not total:
        raise MisconfigurationException(f"The data set for {folder.name} has no images; check where it is read from.")

    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        shape = next(images.shape[1:] for images, _ in source.values())
        packed = np.lib.format.open_memmap(part / "images.npy", "w+", np.uint8, (total, *shape))
        sums = np.empty((total, 2, shape[0]), np.int64)
        splits, end = {}, 0
        for split, (images, _) in source.items():
            start, end = end, end + len(images)
            splits[split] = (start, end)
            for i in range(start, end, CHUNK):
                rows = slice(i, min(i + CHUNK, end))
                packed[rows] = images[i - start : rows.stop - start]
                chunk = packed[rows].astype(np.int64)
                sums[rows, 0] = chunk.sum(axis=(2, 3))
                sums[rows, 1] = (chunk**2).sum(axis=(2, 3))
        packed.flush()
        del packed
        np.save(part / "labels.npy", np.concatenate([labels for _, labels in source.values()]).astype(np.int64))
        np.save(part / "sums.npy", sums)
        facts = {
            "version": FORMAT_VERSION,
            "images": total,
            "splits": splits,
            "class_names": list(class_names),
        }
        (part / "facts.json").write_text(json.dumps(facts, indent=2))
        for file in part.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
