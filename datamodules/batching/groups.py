"""Folds of a cross-validation, and groups of images that stay together, such as those of one patient.

Shapes: `N` images; the number of each one's group, and its stratum, such as its label, are int64 `[N]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.names import escape_name
from core.user_error import UserError
from datamodules.batching.randomness import random_key
from datamodules.batching.split import SALT, SplitPlan, uniform


def numbered(groups: NDArray[Any]) -> NDArray[np.int64]:
    """A number for the group of each image, from 0 on in the order of names; of text, faster than NumPy's `unique`."""
    place = {name: number for number, name in enumerate(sorted({*groups.tolist()}))}
    return np.fromiter(map(place.__getitem__, groups.tolist()), np.int64, len(groups))


def check_groups(groups: NDArray[Any], splits: Mapping[str, Tensor]) -> None:
    """Refuse a group that has images in two splits, given as the places of their images."""
    split_of: dict[str, str] = {}
    for split, places in splits.items():
        for group in sorted({*groups[places.numpy()].tolist()}):
            if split_of.setdefault(group, split) != split:
                raise UserError(
                    f"The group {escape_name(group)} has images in {split_of[group]} and {split}; put all of them into "
                    "one, or leave out the group column."
                )


def divide(
    strata: NDArray[np.int64], groups: NDArray[np.int64], order: NDArray[np.float64], shares: Sequence[float]
) -> NDArray[np.int64]:
    """The part that each image goes to, int64 `[N]`: whole groups, so that parts have their shares of each stratum.

    Each group, the largest first and then that of the lowest number in `order`, goes to the part where it adds least to
    the chi-squared distance between the parts' images and their shares, of each stratum and of all.
    """
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    content = np.split(strata[np.argsort(numbers, kind="stable")], np.cumsum(sizes)[:-1])
    totals = np.append(np.bincount(strata), len(strata))
    weights = 2**32 // np.maximum(totals, 1)  # whole numbers, so that every machine draws the same
    lowest, parts = np.ones(len(sizes)), np.empty(len(sizes), np.int64)
    np.minimum.at(lowest, numbers, order)
    there = np.zeros((len(shares), len(totals)), np.int64)
    for group in np.lexsort((lowest, -sizes)):
        counts = np.append(np.bincount(content[group], minlength=len(totals) - 1), sizes[group])
        parts[group] = part = ((2 * there + counts) @ (counts * weights) / shares).argmin()
        there[part] += counts
    return parts[numbers]


def draw_groups(
    strata: NDArray[np.int64], groups: NDArray[np.int64], order: NDArray[np.float64], size: int | float
) -> Tensor:
    """Draw whole groups with about `size` images, a number or a fraction, of each stratum its share; bool `[N]`.

    Of each stratum a group always remains. If that leaves nothing, the smallest group that can be spared is drawn.
    """
    share = size / len(strata) if isinstance(size, int) else size
    drawn: NDArray[np.bool_] = divide(strata, groups, order, (1 - share, share)) == 1
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    for stratum in np.setdiff1d(strata, strata[~drawn]):
        own = numbers[strata == stratum]
        drawn &= numbers != own[sizes[own].argmin()]
    if not drawn.any():
        others = (numbers != group for group in np.argsort(sizes, kind="stable"))
        drawn = ~next((rest for rest in others if np.isin(strata, strata[rest]).all()), ~drawn)
    return torch.from_numpy(drawn)


def folds_of(
    plan: SplitPlan,
    splits: Mapping[str, Tensor],
    labels: Tensor,
    strata: Tensor,
    digests: NDArray[np.uint64],
    columns: Mapping[str, NDArray[Any]],
) -> Tensor:
    """The fold of each image, int64 `[N]`, of the source or drawn; the number of folds for one that is in none.

    More folds than a class has images or groups are a UserError.
    """
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
    if given is not None:
        fold[places] = given[places]
        return torch.from_numpy(fold)
    own = None if groups is None else numbered(groups[places])
    of_train, classes = labels[places].numpy(), len(plan.class_names)
    images, kinds = np.nonzero(of_train) if labels.ndim == 2 else (np.arange(len(places)), of_train)
    units = images if own is None else own[images]
    counts = np.bincount(np.unique(units * classes + kinds) % classes)
    if counts.min() < folds:
        raise UserError(
            f"data.folds is {folds}, but the class {plan.class_names[int(counts.argmin())]} has only {counts.min()} "
            f"{'images' if own is None else 'groups'}; give fewer folds, or leave it out of --data.classes."
        )
    fold[places] = fold_of(strata[places].numpy(), digests[places], own, folds, plan.seed)
    return torch.from_numpy(fold)


def fold_of(
    strata: NDArray[np.int64], digests: NDArray[np.uint64], groups: NDArray[np.int64] | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold that each image is drawn for, int64 `[N]`: folds alike in size and strata, whatever the images' order.

    Without groups, they differ by one image of each stratum at most, and images of equal digests share a fold.
    """
    order = uniform(digests, random_key(seed, 3, SALT)).numpy()
    if groups is not None:
        return divide(strata, groups, order, [1 / folds] * folds)
    _, first, copies = np.unique(digests, return_index=True, return_inverse=True)
    fold = np.empty(len(first), np.int64)
    fold[np.lexsort((order[first], strata[first]))] = np.arange(len(first)) % folds
    return fold[copies]
