"""Draw the training, validation and test splits of `N` images of `K` classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.user_error import UserError
from datamodules.batching.randomness import random_key

SPLITS = ("train", "val", "test")

# How to draw splits: with `hashed_split`, or with `stratified_split`, as older runs did.
Rule = Literal["hash", "shuffle"]

SALT = 3475  # chosen so that scikit-learn's digits, at the default sizes and seed, get exactly these sizes


@dataclass
class SplitPlan:
    """The settings that splits are drawn with; `datamodules.base.ImageDataModule` explains them."""

    class_names: Sequence[str]
    tests_on_validation: bool = False  # whether the validation split is also the test split
    val_size: int | float = 0.1
    test_size: int | float = 0.2
    limit: int | float | None = None
    seed: int = 0
    rule: Rule = "hash"
    folds: int | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        self.val_size = checked_size("val_size", self.val_size)
        self.test_size = checked_size("test_size", self.test_size)
        self.limit = None if self.limit is None else checked_size("limit", self.limit)

    def draw(
        self,
        source_splits: Mapping[str, Tensor],
        labels: Tensor,
        hashes: NDArray[np.uint64],
        columns: Mapping[str, NDArray[Any]],
    ) -> dict[str, Tensor]:
        """Return the indices, int64, of the images in `train`, `val` and `test`, given those of the source's splits.

        Labels are int64 `[N]`, -1 for an unused class, or uint8 `[N, K]`; the `hashes`, uint64 `[N]`, decide the split
        of each image. Of the source's `columns`, `[N]` each, `group` and `fold` are used. UserError is raised if a
        class has no training image, a split is empty, or a group is in two splits of the source.
        """
        strata, groups, fold = labels, columns.get("group"), None
        if labels.ndim == 2:
            from datamodules.batching.stratified import rarest_labels

            strata = rarest_labels(labels)
        splits = {name: indices[strata[indices] >= 0] for name, indices in source_splits.items()}
        if self.folds is not None or self.fold is not None or "fold" in columns:
            from datamodules.batching.groups import folds_of

            fold = folds_of(self, splits, labels, strata, hashes, columns)
            is_test = fold[splits["train"]] == self.fold
            splits |= {"train": splits["train"][~is_test], "test": splits["train"][is_test]}
        if groups is not None:
            from datamodules.batching.groups import check_groups, numbered

            check_groups(groups, splits)
            groups = numbered(groups)
        if self.tests_on_validation:
            splits.pop("test", None)
        elif "test" not in splits:
            splits |= self._split_off("test", splits["train"], strata, groups, hashes)
        if "val" not in splits:
            splits |= self._split_off("val", splits["train"], strata, groups, hashes)
        if self.limit is not None:
            from datamodules.batching.stratified import limited

            splits = limited(splits, strata, hashes, self.limit, self, fold)
        if self.tests_on_validation:
            splits["test"] = splits["val"]
        # Older runs with `shuffle` were trained even if all training images of a class had been drawn for other splits.
        is_old = self.rule == "shuffle" and not columns and self.fold is None
        self._check(splits, labels, source_splits["train"] if is_old else splits["train"])
        return splits

    def _split_off(
        self, name: str, train: Tensor, strata: Tensor, groups: NDArray[np.int64] | None, hashes: NDArray[np.uint64]
    ) -> dict[str, Tensor]:
        """Draw a split from the training images; return both as indices."""
        size = self.test_size if name == "test" else self.val_size
        if size >= len(train):
            raise UserError(f"data.{name}_size asks for {size} of {len(train)} images; give a smaller one.")
        key = random_key(self.seed, ("test", "val").index(name))
        train_strata, train_hashes = strata[train], hashes[train.numpy()]
        if groups is not None:
            from datamodules.batching.groups import draw_groups

            order = uniform(train_hashes, key).numpy()
            is_drawn = draw_groups(train_strata.numpy(), groups[train.numpy()], order, size)
        elif self.rule == "shuffle":
            from datamodules.batching.stratified import stratified_split

            is_drawn = stratified_split(train_strata, size, key)
        else:
            is_drawn = hashed_split(train_strata, train_hashes, size, key)
        return {"train": train[~is_drawn], name: train[is_drawn]}

    def _check(self, splits: Mapping[str, Tensor], labels: Tensor, train: Tensor) -> None:
        """Raise UserError if a split is empty, or a class has no image among `train`."""
        for name in SPLITS:
            if not len(splits[name]):
                raise UserError(
                    f"data.{name}_size, limit or classes: the {name} split has none of the {len(labels)} images (each "
                    "class keeps one to be trained on); change them, or use more images."
                )
        counts = class_counts(labels[train], len(self.class_names))
        if (counts == 0).any():
            name = self.class_names[int(counts.argmin())]
            raise UserError(
                f"The class {name} has no training image left by the splits and data.limit; add some, or leave it out "
                "of --data.classes."
            )


def checked_size(argument: str, size: int | float) -> int | float:
    """Return a number of images as int, also if it is written as 1e4, or a fraction of them as float."""
    if size > 1 and float(size).is_integer():
        return int(size)
    if not size > 0 or (isinstance(size, float) and not size < 1):
        raise UserError(f"data.{argument} is {size}; give a fraction between 0 and 1 or a whole number of images.")
    return size


def uniform(hashes: NDArray[np.uint64], key: int) -> Tensor:
    """Return a pseudorandom number in [0, 1) for each image, float64 `[N]`, from its hash and the key alone."""
    mixed = hashes ^ np.uint64(key)  # followed by the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53)


def hashed_split(labels: Tensor, hashes: NDArray[np.uint64], size: int | float, seed: int) -> Tensor:
    """Draw each image with probability `size`, bool `[N]`, by a number that depends only on the seed and its hash.

    So an image stays in its split when other images are added or removed. A number of images is converted to a
    fraction of two digits, which changes rarely. The image with the highest number of each class is never drawn. If no
    image is drawn, the one with the lowest number is.
    """
    total = len(labels)
    if isinstance(size, int):
        size = float(f"{size / total:.2g}")
    numbers = uniform(hashes, random_key(seed, SALT))
    highest = torch.zeros(int(labels.max()) + 1, dtype=numbers.dtype).scatter_reduce(0, labels, numbers, "amax")
    may_be_drawn = numbers < highest[labels]
    is_drawn = may_be_drawn & (numbers < size)
    if not is_drawn.any() and may_be_drawn.any() and size * total >= 0.5:
        is_drawn = may_be_drawn & (numbers == numbers[may_be_drawn].min())
    return is_drawn


def class_counts(labels: Tensor, num_classes: int, weights: Tensor | None = None) -> Tensor:
    """Count the images of each class, or sum their weights; labels are int64 `[N]`, -1 for none, or uint8 `[N, K]`."""
    if labels.ndim == 1:
        return torch.bincount(labels + 1, weights, num_classes + 1)[1:]
    return labels.sum(dim=0) if weights is None else weights @ labels.double()
