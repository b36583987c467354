"""Groups of images that stay together, such as those of one patient, camera or scene.

Shapes: `N` images; strata, such as their labels, are int64 `[N]`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.names import escape_name
from core.user_error import UserError

Groups = NDArray[Any]  # of each image, a text or a number, `[N]`


def numbered(values: NDArray[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """The values that there are, in ascending order, and the place of each among them; of text, faster than NumPy."""
    there = sorted({*values.tolist()})
    place = {value: number for number, value in enumerate(there)}
    return there, np.fromiter(map(place.__getitem__, values.tolist()), np.int64, len(values))


def counted(
    first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of numbers that there are, in ascending order, and how often each is."""
    base = int(second.max()) + 1 if len(second) else 1
    pairs, counts = np.unique(first * base + second, return_counts=True)
    return *np.divmod(pairs, base), counts


def divide(
    strata: NDArray[np.int64], groups: Groups, order: NDArray[np.float64], shares: Sequence[float]
) -> NDArray[np.int64]:
    """Give whole groups to parts of these shares, so that the strata of each part come as near to its share as may be.

    The largest group comes first. Each goes to the part where it adds least to the chi-squared distance between the
    images that the parts have of each stratum, and of all, and their shares: a part that has got less than its share
    of the group's strata. Large groups are thereby spread over the parts like small ones. Of groups of one size, that
    of the lowest number in `order` comes first. 100,000 groups take a second.

    Args:
        strata: The stratum of each image.
        groups: Its group.
        order: Numbers float64 `[N]`, such as `datamodules.batching.split.uniform` gives.
        shares: What each part is to have, numbers that add up to 1.

    Returns:
        The part of each image, int64 `[N]`.

    Example:
        >>> strata, groups = np.array([0, 0, 0, 1, 1, 1]), np.array(["a", "a", "b", "c", "d", "d"])
        >>> divide(strata, groups, np.linspace(0, 1, 6), [0.5, 0.5])
        array([0, 0, 1, 0, 1, 1])
    """
    _, numbers = np.unique(groups, return_inverse=True)
    everything = int(strata.max()) + 1  # the stratum of all images
    owners, kinds, counts = counted(np.tile(numbers, 2), np.append(strata, np.full(len(strata), everything)))
    totals = np.append(np.bincount(strata), len(strata))
    sizes, first = np.bincount(numbers), np.ones(numbers.max() + 1)
    np.minimum.at(first, numbers, order)
    ends = np.searchsorted(owners, np.arange(len(sizes) + 1)).tolist()
    content = list(zip(kinds.tolist(), counts.tolist(), (counts / totals[kinds]).tolist(), strict=True))
    has = [[0.0] * len(totals) for _ in shares]  # of each stratum, the share that a part has
    parts = np.empty(len(sizes), np.int64)
    for group in np.lexsort((first, -sizes)).tolist():
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
    strata: NDArray[np.int64], groups: Groups, order: NDArray[np.float64], share: float
) -> NDArray[np.bool_]:
    """Draw whole groups that have about `share` of the images of each stratum, as `divide` does; bool `[N]`.

    Of each stratum a group always remains. If `share` is less than any group, the smallest that can be spared is drawn.
    """
    _, numbers = np.unique(groups, return_inverse=True)
    drawn: NDArray[np.bool_] = divide(strata, groups, order, (1 - share, share)) == 1
    sizes = np.bincount(numbers)
    for stratum in np.setdiff1d(strata, strata[~drawn]).tolist():
        own = numbers[strata == stratum]
        drawn &= numbers != own[sizes[own].argmin()]
    if not drawn.any() and share * len(strata) >= 0.5:
        owners, kinds, counts = counted(numbers, strata)
        spared = np.setdiff1d(numbers, owners[counts == np.bincount(strata)[kinds]])
        if len(spared):
            drawn |= numbers == spared[sizes[spared].argmin()]
    return drawn


def check_apart(groups: Groups, parts: NDArray[Any], remedy: str) -> None:
    """Refuse a group that has images in two of the parts, whose names are `[N]`."""
    for group, names in crossing(groups, parts)[:1]:
        raise UserError(
            f"The group {escape_name(group)} has images in {' and '.join(names[:2])}; put all of them into one, or "
            f"{remedy}."
        )


def crossing(groups: Groups, parts: NDArray[Any]) -> list[tuple[str, list[str]]]:
    """The groups that have images in several of the parts, with the names of these, in order."""
    (names, numbers), (kinds, kind) = numbered(groups), numbered(parts)
    owners, there, _ = counted(numbers, kind)
    ends = np.searchsorted(owners, np.arange(len(names) + 1))
    return [
        (str(names[each]), [kinds[part] for part in there[ends[each] : ends[each + 1]].tolist()])
        for each in np.flatnonzero(np.diff(ends) > 1).tolist()
    ]
