"""Draw cross-validation folds, and keep groups of images, such as all images of one patient, in the same split.

Shapes: `N` images; their group numbers and their strata, such as their labels, are int64 `[N]`.
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
    """Number the groups from 0 in the order of their names; for text this is faster than NumPy's `unique`."""
    number_of = {name: number for number, name in enumerate(sorted({*groups.tolist()}))}
    return np.fromiter(map(number_of.__getitem__, groups.tolist()), np.int64, len(groups))


def check_groups(groups: NDArray[Any], splits: Mapping[str, Tensor]) -> None:
    """Raise UserError if a group has images in two splits; the splits hold indices of images."""
    split_of: dict[str, str] = {}
    for split, indices in splits.items():
        for group in sorted({*groups[indices.numpy()].tolist()}):
            if split_of.setdefault(group, split) != split:
                raise UserError(
                    f"The group {escape_name(group)} has images in {split_of[group]} and {split}; put all of them into "
                    "one, or leave out the group column."
                )


def divide(
    strata: NDArray[np.int64], groups: NDArray[np.int64], order: NDArray[np.float64], fractions: Sequence[float]
) -> NDArray[np.int64]:
    """Divide whole groups into parts, so that each part has its fraction of each stratum; int64 `[N]`.

    The groups are assigned from large to small, and equally large ones by their lowest number in `order`. A group goes
    to the part where it adds least to the chi-squared distance between the parts' counts and their fractions, summed
    over all strata and the total.
    """
    _, group_numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    strata_of_group = np.split(strata[np.argsort(group_numbers, kind="stable")], np.cumsum(sizes)[:-1])
    totals = np.append(np.bincount(strata), len(strata))
    weights = 2**32 // np.maximum(totals, 1)  # integers, so that all machines draw the same groups
    lowest, part_of_group = np.ones(len(sizes)), np.empty(len(sizes), np.int64)
    np.minimum.at(lowest, group_numbers, order)
    part_counts = np.zeros((len(fractions), len(totals)), np.int64)
    for group in np.lexsort((lowest, -sizes)):
        counts = np.append(np.bincount(strata_of_group[group], minlength=len(totals) - 1), sizes[group])
        part = ((2 * part_counts + counts) @ (counts * weights) / fractions).argmin()
        part_of_group[group] = part
        part_counts[part] += counts
    return part_of_group[group_numbers]


def draw_groups(
    strata: NDArray[np.int64], groups: NDArray[np.int64], order: NDArray[np.float64], size: int | float
) -> Tensor:
    """Draw whole groups with about `size` images, a number or a fraction, of each stratum in proportion; bool `[N]`.

    At least one group of each stratum is not drawn. If nothing could be drawn, the smallest group is drawn whose
    strata all have another group.
    """
    fraction = size / len(strata) if isinstance(size, int) else size
    drawn: NDArray[np.bool_] = divide(strata, groups, order, (1 - fraction, fraction)) == 1
    _, group_numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    for stratum in np.setdiff1d(strata, strata[~drawn]):
        candidates = group_numbers[strata == stratum]
        drawn &= group_numbers != candidates[sizes[candidates].argmin()]
    if not drawn.any():
        for group in np.argsort(sizes, kind="stable"):
            is_in_group = group_numbers == group
            if np.isin(strata, strata[~is_in_group]).all():
                return torch.from_numpy(is_in_group)
    return torch.from_numpy(drawn)


def folds_of(
    plan: SplitPlan,
    splits: Mapping[str, Tensor],
    labels: Tensor,
    strata: Tensor,
    hashes: NDArray[np.uint64],
    columns: Mapping[str, NDArray[Any]],
) -> Tensor:
    """Return the fold of each image, int64 `[N]`, from the source's `fold` column, or drawn.

    Images outside the training split get the number of folds. UserError is raised if the source has its own test split,
    or a class has fewer images or groups than there are folds.
    """
    if "test" in splits or plan.tests_on_validation:
        raise UserError(
            "The data set has a test split of its own, so that no fold can be it; leave out data.fold, data.folds and "
            "a fold column."
        )
    fold_column, group_column, train = columns.get("fold"), columns.get("group"), splits["train"].numpy()
    folds = (plan.folds or 0) if fold_column is None else int(fold_column.max()) + 1
    if folds < 2 or plan.folds not in (None, folds) or plan.fold not in range(folds):
        in_column = "" if fold_column is None else f" (the fold column has {folds})"
        raise UserError(
            f"data.folds is {plan.folds} and data.fold {plan.fold}; give how many folds there are{in_column}, at least "
            "two, and which of them, from 0 on, is the test split."
        )
    fold = np.full(len(strata), folds)
    if fold_column is not None:
        fold[train] = fold_column[train]
        return torch.from_numpy(fold)
    groups = None if group_column is None else numbered(group_column[train])
    _check_classes(plan, folds, labels[train].numpy(), groups)
    fold[train] = fold_of(strata[train].numpy(), hashes[train], groups, folds, plan.seed)
    return torch.from_numpy(fold)


def _check_classes(plan: SplitPlan, folds: int, labels: NDArray[Any], groups: NDArray[np.int64] | None) -> None:
    """Raise UserError if a class has fewer images, or fewer groups, than there are folds."""
    images, classes = np.nonzero(labels) if labels.ndim == 2 else (np.arange(len(labels)), labels)
    units = images if groups is None else groups[images]
    # One number for each pair of unit and class, so that a group counts once for a class.
    pairs = np.unique(units * len(plan.class_names) + classes)
    counts = np.bincount(pairs % len(plan.class_names))
    if counts.min() < folds:
        raise UserError(
            f"data.folds is {folds}, but the class {plan.class_names[int(counts.argmin())]} has only {counts.min()} "
            f"{'images' if groups is None else 'groups'}; give fewer folds, or leave it out of --data.classes."
        )


def fold_of(
    strata: NDArray[np.int64], hashes: NDArray[np.uint64], groups: NDArray[np.int64] | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """Draw the fold of each image, int64 `[N]`, independently of the images' order; folds have similar strata.

    Without groups, folds differ by at most one image of each stratum, and images with the same hash share a fold.
    """
    order = uniform(hashes, random_key(seed, 3, SALT)).numpy()
    if groups is not None:
        return divide(strata, groups, order, [1 / folds] * folds)
    _, first, copies = np.unique(hashes, return_index=True, return_inverse=True)
    fold = np.empty(len(first), np.int64)
    fold[np.lexsort((order[first], strata[first]))] = np.arange(len(first)) % folds
    return fold[copies]
