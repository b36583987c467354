"""Which images are trained on, and which are not."""

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

# How splits are drawn: by `hashed_split`, or by `stratified_split` as in runs from before `hashed_split` existed.
Rule = Literal["hash", "shuffle"]

SALT = 3475  # chosen so that scikit-learn's digits, at the default sizes and seed, come to exactly these sizes


@dataclass
class SplitPlan:
    """How the images of each split are chosen; `datamodules.base.ImageDataModule` explains what is not said here."""

    class_names: Sequence[str]
    tests_on_validation: bool = False  # whether the validation images are the test images too
    val_size: int | float = 0.1
    test_size: int | float = 0.2
    limit: int | float | None = None
    seed: int = 0  # of the draws
    rule: Rule = "hash"
    folds: int | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        self.val_size = checked_size("val_size", self.val_size)
        self.test_size = checked_size("test_size", self.test_size)
        self.limit = None if self.limit is None else checked_size("limit", self.limit)

    def draw(
        self,
        given: Mapping[str, Tensor],
        labels: Tensor,
        digests: NDArray[np.uint64],
        columns: Mapping[str, NDArray[Any]],
    ) -> dict[str, Tensor]:
        """Choose the images of `train`, `val` and `test`, as their places, int64, from the splits of the source.

        Labels are int64 `[N]` with -1 for a class that is not used, or uint8 `[N, K]`; `digests`, uint64 `[N]`, tell
        images apart. Of the `columns`, `[N]` each, `group` and `fold` count. A class without a training image, a split
        without images, and a group in two of the given splits are a UserError.
        """
        strata, groups, fold = labels, columns.get("group"), None
        if labels.ndim == 2:
            from datamodules.batching.stratified import rarest_labels

            strata = rarest_labels(labels)
        splits = {name: places[strata[places] >= 0] for name, places in given.items()}
        if self.folds is not None or self.fold is not None or "fold" in columns:
            from datamodules.batching.groups import folds_of

            fold = folds_of(self, splits, labels, strata, digests, columns)
            is_test = fold[splits["train"]] == self.fold
            splits |= {"train": splits["train"][~is_test], "test": splits["train"][is_test]}
        if groups is not None:
            from datamodules.batching.groups import numbered, refuse_crossing

            refuse_crossing(groups, splits)
            groups = numbered(groups)
        sizes = {"test": self.test_size, "val": self.val_size}
        if self.tests_on_validation:
            splits.pop("test", None)
            del sizes["test"]
        for name, size in sizes.items():
            if name in splits:
                continue
            train, key = splits["train"], random_key(self.seed, ("test", "val").index(name))
            places, of_train = train.numpy(), strata[train]
            if size >= len(train):
                raise UserError(f"data.{name}_size asks for {size} of {len(train)} images; give a smaller one.")
            if groups is not None:
                from datamodules.batching.groups import draw_groups

                drawn = draw_groups(of_train.numpy(), groups[places], uniform(digests[places], key).numpy(), size)
            elif self.rule == "shuffle":
                from datamodules.batching.stratified import stratified_split

                drawn = stratified_split(of_train, size, key)
            else:
                drawn = hashed_split(of_train, digests[places], size, key)
            splits |= {"train": train[~drawn], name: train[drawn]}
        if self.limit is not None:
            from datamodules.batching.stratified import limited

            splits = limited(splits, strata, digests, self.limit, self, fold)
        if self.tests_on_validation:
            splits["test"] = splits["val"]
        for name in SPLITS:
            if not len(splits[name]):
                raise UserError(
                    f"data.{name}_size, limit or classes: the {name} split has none of the {len(labels)} images (each "
                    "class keeps one to be trained on); change them, or use more images."
                )
        # Under `shuffle`, older runs, which had no columns or folds, have been trained without the class.
        is_old = self.rule == "shuffle" and not columns and self.fold is None
        counts = class_counts(labels[given["train"] if is_old else splits["train"]], len(self.class_names))
        if (counts == 0).any():
            name = self.class_names[int(counts.argmin())]
            raise UserError(
                f"The class {name} has no training image left by the splits and data.limit; add some, or leave it out "
                "of --data.classes."
            )
        return splits


def checked_size(argument: str, size: int | float) -> int | float:
    """A number of images as int, also if it is written 1e4, or a fraction of them as float."""
    if size > 1 and float(size).is_integer():
        return int(size)
    if not size > 0 or (isinstance(size, float) and not size < 1):
        raise UserError(f"data.{argument} is {size}; give a fraction between 0 and 1 or a whole number of images.")
    return size


def uniform(digests: NDArray[np.uint64], key: int) -> Tensor:
    """A number in [0, 1) for each image, float64 `[N]`, that follows from its digest and the key alone."""
    mixed = digests ^ np.uint64(key)  # then the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53)


def hashed_split(labels: Tensor, digests: NDArray[np.uint64], size: int | float, seed: int) -> Tensor:
    """Draw each image with probability `size`, by a number that follows from the seed and its digest alone; bool `[N]`.

    So an image stays where it is when others come or go. A number of images is made a fraction of two digits, which a
    file more or less seldom changes. Of each class the highest number remains; the lowest of all is drawn if none is.
    """
    total = len(labels)
    if isinstance(size, int):
        size = float(f"{size / total:.2g}")
    numbers = uniform(digests, random_key(seed, SALT))
    highest = torch.zeros(int(labels.max()) + 1, dtype=numbers.dtype).scatter_reduce(0, labels, numbers, "amax")
    may_be_drawn = numbers < highest[labels]
    drawn = may_be_drawn & (numbers < size)
    if not drawn.any() and may_be_drawn.any() and size * total >= 0.5:
        drawn = may_be_drawn & (numbers == numbers[may_be_drawn].min())
    return drawn


def class_counts(labels: Tensor, num_classes: int, weights: Tensor | None = None) -> Tensor:
    """The images of each class, `[K]`, from labels int64 `[N]`, -1 for none, or uint8 `[N, K]`, by float64 weights."""
    if labels.ndim == 1:
        return torch.bincount(labels + 1, weights, num_classes + 1)[1:]
    return labels.sum(dim=0) if weights is None else weights @ labels.double()
