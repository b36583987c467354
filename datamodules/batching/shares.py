"""Shares of an epoch that classes are given, where they are balanced, or images, where they have weights.

Shapes: `N` images, with the class, int64 `[N]`, or the weight, float64 `[N]`, of each.
"""

import torch
from torch import Tensor


def drawn_by_shares(classes: Tensor | None, weights: Tensor | None, generator: torch.Generator) -> Tensor:
    """Places of the images of an epoch, int64 `[N]`, drawn by their weights or else so that all classes are alike."""
    if weights is None:
        assert classes is not None, "one of them is given"
        members = [torch.nonzero(classes == label)[:, 0] for label in torch.unique(classes)]
        counts = balanced_counts(len(classes), len(members))
        return torch.cat([_drawn(each, count, generator) for each, count in zip(members, counts, strict=True)])
    # Points at equal distances on a line along which each image, in random order, is as long as its weight
    # (systematic sampling; Madow and Madow, 1944): an image comes as often as it should, to within one.
    order = torch.randperm(len(weights), generator=generator)
    ends = weights[order].cumsum(0)
    ends = ends / ends[-1] * len(ends) + torch.rand(1, dtype=ends.dtype, generator=generator)
    return order.repeat_interleave(ends.floor().long().diff(prepend=torch.zeros(1, dtype=torch.int64)))


def _drawn(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many images of a class: each as often as any other, to within one."""
    rounds = -(-count // len(members))
    orders = [torch.randperm(len(members), generator=generator) for _ in range(rounds)]
    return members[torch.cat(orders)[:count]]


def balanced_counts(total: int, num_classes: int) -> list[int]:
    """The images of each class in a balanced epoch of `total` images.

    Example:
        >>> balanced_counts(11, 3)
        [4, 4, 3]
    """
    share, rest = divmod(total, num_classes)
    return [share + (label < rest) for label in range(num_classes)]
