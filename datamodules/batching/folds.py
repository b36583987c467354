"""The folds of a cross-validation, each of which is the test split once.

Shapes: `N` images of `K` classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.user_error import UserError
from datamodules.batching.groups import divide
from datamodules.batching.randomness import random_key
from datamodules.batching.split import SALT, uniform

FOLDS = 3  # in place of a split's number in the key of the draw


def fold_of(
    strata: NDArray[np.int64], digests: NDArray[np.uint64], groups: NDArray[np.int64] | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold of each image, int64 `[N]`: folds are alike in size and strata, int64 `[N]`, such as labels.

    Without groups, the folds' images of each stratum, and all of their images, differ by one at most, and images of
    equal digests (copies, where there are no files) share a fold. With groups, `datamodules.batching.groups.divide`
    divides them. Another image may change the fold of others; the order of images does not matter.
    """
    order = uniform(digests, random_key(seed, FOLDS, SALT)).numpy()
    if groups is not None:
        return divide(strata, groups, order, [1 / folds] * folds)
    _, first, copies = np.unique(digests, return_index=True, return_inverse=True)
    fold = np.empty(len(first), np.int64)
    fold[np.lexsort((order[first], strata[first]))] = np.arange(len(first)) % folds
    return fold[copies]


def check_folds(folds: int, labels: NDArray[Any], groups: NDArray[np.int64] | None, class_names: Sequence[str]) -> None:
    """Refuse more folds than a class has images or groups; labels are int64 `[N]` or uint8 `[N, K]`."""
    images, kinds = np.nonzero(labels) if labels.ndim == 2 else (np.arange(len(labels)), labels)
    units = images if groups is None else np.unique(groups, return_inverse=True)[1][images]
    counts = np.bincount(np.unique(units * len(class_names) + kinds) % len(class_names))
    if counts.min() < folds:
        raise UserError(
            f"data.folds is {folds}, but the class {class_names[int(counts.argmin())]} has only {counts.min()} "
            f"{'images' if groups is None else 'groups'}; give fewer folds, or leave it out of --data.classes."
        )
