"""Folds of a cross-validation.

Shapes: `N` images; the number of each one's group, and its stratum, such as its label, are int64 `[N]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.user_error import UserError
from datamodules.batching.groups import divide, numbered
from datamodules.batching.randomness import random_key
from datamodules.batching.split import SALT, SplitPlan, uniform


def folds_of(
    plan: SplitPlan,
    splits: Mapping[str, Tensor],
    labels: Tensor,
    strata: Tensor,
    digests: NDArray[np.uint64],
    columns: Mapping[str, NDArray[Any]],
) -> Tensor:
    """The fold of each image, int64 `[N]`: that of the source or drawn; the number of folds if it is in no fold."""
    if "test" in splits or plan.tests_on_validation:
        raise UserError(
            "The data set has a test split of its own, so that no fold can be it; leave out data.fold, data.folds and "
            "a fold column."
        )
    given, groups, places = columns.get("fold"), columns.get("group"), splits["train"].numpy()
    folds = (plan.folds or 0) if given is None else int(given.max()) + 1
    if folds < 2 or plan.folds not in (None, folds) or plan.fold not in range(folds):
        there = "" if given is None else f" (the fold column has {folds})"
        raise UserError(
            f"data.folds is {plan.folds} and data.fold {plan.fold}; give how many folds there are{there}, at least "
            "two, and which of them, from 0 on, is the test split."
        )
    fold = np.full(len(strata), folds)
    if given is None:
        own = None if groups is None else numbered(groups[places])
        check_folds(folds, labels[places].numpy(), own, plan.class_names)
        fold[places] = fold_of(strata[places].numpy(), digests[places], own, folds, plan.seed)
    else:
        fold[places] = given[places]
    return torch.from_numpy(fold)


def fold_of(
    strata: NDArray[np.int64], digests: NDArray[np.uint64], groups: NDArray[np.int64] | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold that each image is drawn for, int64 `[N]`: folds alike in size and strata.

    Without groups, the folds' images of each stratum, and all of their images, differ by one at most, and images of
    equal digests share a fold. With groups, `datamodules.batching.groups.divide` divides them. Another image may change
    the fold of others; the order of images does not matter.
    """
    order = uniform(digests, random_key(seed, 3, SALT)).numpy()
    if groups is not None:
        return divide(strata, groups, order, [1 / folds] * folds)
    _, first, copies = np.unique(digests, return_index=True, return_inverse=True)
    fold = np.empty(len(first), np.int64)
    fold[np.lexsort((order[first], strata[first]))] = np.arange(len(first)) % folds
    return fold[copies]


def check_folds(folds: int, labels: NDArray[Any], groups: NDArray[np.int64] | None, class_names: Sequence[str]) -> None:
    """Refuse more folds than a class has images or groups; labels are int64 `[N]` or uint8 `[N, K]`."""
    images, kinds = np.nonzero(labels) if labels.ndim == 2 else (np.arange(len(labels)), labels)
    units = images if groups is None else groups[images]
    counts = np.bincount(np.unique(units * len(class_names) + kinds) % len(class_names))
    if counts.min() < folds:
        raise UserError(
            f"data.folds is {folds}, but the class {class_names[int(counts.argmin())]} has only {counts.min()} "
            f"{'images' if groups is None else 'groups'}; give fewer folds, or leave it out of --data.classes."
        )
