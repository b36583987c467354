"""Draw the images of an epoch so that all classes are equally frequent, or in proportion to weights.

Shapes: `N` images; their classes are int64 `[N]`, their weights float64 `[N]`.
"""

import torch
from torch import Tensor


def drawn_by_shares(classes: Tensor | None, weights: Tensor | None, generator: torch.Generator) -> Tensor:
    """Draw the indices of an epoch's images, int64 `[N]`, by their weights or, without weights, balanced by class."""
    if weights is None:
        assert classes is not None, "either classes or weights are required"
        members = [torch.nonzero(classes == label)[:, 0] for label in torch.unique(classes)]
        counts = balanced_counts(len(classes), len(members))
        drawn = [_drawn(indices, count, generator) for indices, count in zip(members, counts, strict=True)]
        return torch.cat(drawn)
    # Place the images on a line in random order, each as long as its weight, and draw points at equal distances
    # (systematic sampling; Madow and Madow, 1944): each image is drawn as often as its weight says, to within one.
    order = torch.randperm(len(weights), generator=generator)
    ends = weights[order].cumsum(0)
    ends = ends / ends[-1] * len(ends) + torch.rand(1, dtype=ends.dtype, generator=generator)
    return order.repeat_interleave(ends.floor().long().diff(prepend=torch.zeros(1, dtype=torch.int64)))


def _drawn(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` images of a class, each equally often to within one."""
    rounds = -(-count // len(members))
    orders = [torch.randperm(len(members), generator=generator) for _ in range(rounds)]
    return members[torch.cat(orders)[:count]]


def balanced_counts(total: int, num_classes: int) -> list[int]:
    """Return the number of images of each class in a balanced epoch of `total` images.

    Example:
        >>> balanced_counts(11, 3)
        [4, 4, 3]
    """
    quotient, remainder = divmod(total, num_classes)
    return [quotient + (label < remainder) for label in range(num_classes)]
