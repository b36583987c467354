"""Groups of images that stay together, such as those of one patient, camera or scene.

Shapes: `N` images; the number of each one's group, and its stratum, such as its label, are int64 `[N]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.names import escape_name
from core.user_error import UserError


def numbered(groups: NDArray[Any]) -> NDArray[np.int64]:
    """A number for the group of each image, from 0 on in the order of names; of text, faster than NumPy's `unique`."""
    place = {name: number for number, name in enumerate(sorted({*groups.tolist()}))}
    return np.fromiter(map(place.__getitem__, groups.tolist()), np.int64, len(groups))


def refuse_crossing(groups: NDArray[Any], splits: Mapping[str, Tensor]) -> None:
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

    Each group, the largest first, goes to the part where it adds least to the chi-squared distance between the parts'
    images and their shares, of each stratum and of all. Folds come out as even as those of scikit-learn's
    `StratifiedGroupKFold`, and 100,000 groups take a second or two. Among groups of one size, that with the lowest
    number in `order`, float64 `[N]`, comes first.
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
) -> NDArray[np.bool_]:
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
    return drawn
