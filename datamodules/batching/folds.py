"""The folds of a cross-validation, each of which is the test split once.

Shapes: `N` images; strata, such as their labels, are int64 `[N]`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.user_error import UserError
from datamodules.batching.groups import Groups, check_apart, counted, divide, numbered
from datamodules.batching.randomness import random_key
from datamodules.batching.split import SALT, uniform

FOLDS = 3  # what the key of this draw has in place of that of another split


def fold_of(
    strata: NDArray[np.int64], digests: NDArray[np.uint64], groups: Groups | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold of each image, int64 `[N]`: each has one, and the folds are alike in size and strata.

    Without groups, a fold's images of each stratum, and all of its images, are as many as another's to within one, and
    images of equal digests (copies, where there are no files) share a fold. With groups, whole groups are divided as
    nearly so as `datamodules.batching.groups.divide` can. The folds follow from the images, `folds` and `seed`, in
    whatever order the images come; another image may change the fold of others.
    """
    order = uniform(digests, random_key(seed, FOLDS, SALT)).numpy()
    if groups is not None:
        return divide(strata, numbered(groups)[1], order, [1 / folds] * folds)
    _, first, copies = np.unique(digests, return_index=True, return_inverse=True)
    fold = np.empty(len(first), np.int64)
    fold[np.lexsort((order[first], strata[first]))] = np.arange(len(first)) % folds
    return fold[copies]


def split_fold(
    splits: dict[str, Tensor],
    labels: Tensor,
    digests: NDArray[np.uint64],
    *,
    fold: int | None,
    folds: int | None,
    given: NDArray[np.int64] | None,
    groups: Groups | None,
    seed: int,
    class_names: Sequence[str],
) -> dict[str, Tensor]:
    """Make one of the folds of the training images the test split.

    The arguments are those of `datamodules.batching.split.draw_splits`; `given` has the fold of each image, where the
    source says it.
    """
    train = splits["train"][labels[splits["train"]] >= 0]
    places, strata = train.numpy(), labels[train].numpy()
    groups = None if groups is None else groups[places]
    if given is not None:
        numbers, there = given[places], int(given.max()) + 1
        if folds not in (None, there):
            raise UserError(f"data.folds is {folds}, but the fold column has {there} folds; leave data.folds out.")
        folds = there
        if groups is not None:
            names = np.array([f"fold {each}" for each in range(folds)])
            check_apart(groups, names[numbers], "leave the fold column out")
    elif folds is not None:
        _check_counts(strata, groups, folds, class_names)
        numbers = fold_of(strata, digests[places], groups, folds, seed)
    else:
        raise UserError(f"data.fold is {fold}, but not of how many; give data.folds, too.")
    if fold is None or not 0 <= fold < folds:
        raise UserError(f"There are {folds} folds; give one of 0 to {folds - 1} as data.fold, not {fold}.")
    is_test = torch.from_numpy(numbers == fold)
    return splits | {"train": train[~is_test], "test": train[is_test]}


def _check_counts(strata: NDArray[np.int64], groups: Groups | None, folds: int, class_names: Sequence[str]) -> None:
    """Refuse more folds than a class, the stratum of this number, has images or groups."""
    units = np.arange(len(strata)) if groups is None else numbered(groups)[1]
    counts = np.bincount(counted(units, strata)[1], minlength=len(class_names))
    if counts.min() < folds:
        have = "images" if groups is None else "groups"
        raise UserError(
            f"data.folds is {folds}, but the class {class_names[int(counts.argmin())]} has only {counts.min()} {have}; "
            "give fewer folds, or leave it out of --data.classes."
        )
