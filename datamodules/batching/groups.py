"""Groups of images that stay together, such as those of one patient, camera or scene.

Shapes: `N` images; the number of each one's group, and its stratum, such as its label, are int64 `[N]`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def numbered(groups: NDArray[Any]) -> NDArray[np.int64]:
    """A number for the group of each image, from 0 on in the order of names; of text, faster than NumPy's `unique`."""
    place = {name: number for number, name in enumerate(sorted({*groups.tolist()}))}
    return np.fromiter(map(place.__getitem__, groups.tolist()), np.int64, len(groups))


def apart(groups: NDArray[np.int64], parts: NDArray[Any]) -> NDArray[np.int64]:
    """The images that are in another part, `[N]`, than the first image of their group, and that one, int64 `[2, A]`."""
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    others = np.flatnonzero(parts != parts[first][numbers])
    return np.stack([others, first[numbers[others]]])


def divide(
    strata: NDArray[np.int64], groups: NDArray[np.int64], order: NDArray[np.float64], shares: Sequence[float]
) -> NDArray[np.int64]:
    """The part that each image goes to, int64 `[N]`: whole groups, so that parts have their shares of each stratum.

    Each group, the largest first, goes to the part where it adds least to the chi-squared distance between the parts'
    images and their shares, of each stratum and of all. Folds come out as even as those of scikit-learn's
    `StratifiedGroupKFold`, and 100,000 groups take a second or two. Among groups of one size, that with the lowest
    number in `order`, float64 `[N]`, comes first.

    Example:
        >>> strata, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 3, 3])
        >>> divide(strata, groups, np.linspace(0, 1, 6), [0.5, 0.5])
        array([0, 0, 1, 0, 1, 1])
    """
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    totals = np.append(np.bincount(strata), len(strata))  # the last stratum is that of all images
    kinds = np.append(strata, np.full(len(strata), len(totals) - 1))
    pairs, counts = np.unique(np.tile(numbers, 2) * len(totals) + kinds, return_counts=True)
    owners, kinds = np.divmod(pairs, len(totals))
    content = list(zip(kinds.tolist(), counts.tolist(), (counts / totals[kinds]).tolist(), strict=True))
    ends = np.searchsorted(owners, np.arange(len(sizes) + 1)).tolist()
    lowest = np.ones(len(sizes))
    np.minimum.at(lowest, numbers, order)
    has = [[0.0] * len(totals) for _ in shares]  # of each stratum, the share that a part has
    parts = np.empty(len(sizes), np.int64)
    for group in np.lexsort((lowest, -sizes)).tolist():
        own = content[ends[group] : ends[group + 1]]
        costs = [
            sum(count * (2 * there[kind] + share) for kind, count, share in own) / part_share
            for there, part_share in zip(has, shares, strict=True)
        ]
        parts[group] = part = costs.index(min(costs))
        for kind, _, share in own:
            has[part][kind] += share
    return parts[numbers]


def draw_groups(
    strata: NDArray[np.int64], groups: NDArray[np.int64], order: NDArray[np.float64], size: int | float
) -> NDArray[np.bool_]:
    """Draw whole groups with about `size` images, a number or a fraction, of each stratum its share; bool `[N]`.

    Of each stratum a group always remains. If that leaves nothing, the smallest group that can be spared is drawn. It
    is a ValueError if all images are asked for.
    """
    if size >= len(strata):
        raise ValueError(f"size={size} asks for {size} of {len(strata)} images")
    share = size / len(strata) if isinstance(size, int) else size
    drawn: NDArray[np.bool_] = divide(strata, groups, order, (1 - share, share)) == 1
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    for stratum in np.setdiff1d(strata, strata[~drawn]).tolist():
        own = numbers[strata == stratum]
        drawn &= numbers != own[sizes[own].argmin()]
    if not drawn.any():
        others = (numbers != group for group in np.argsort(sizes, kind="stable").tolist())
        drawn = ~next((rest for rest in others if np.isin(strata, strata[rest]).all()), ~drawn)
    return drawn
