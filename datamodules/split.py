"""A seeded, stratified split of a data set in two."""

import torch
from torch import Tensor

from datamodules.randomness import random_key


def stratified_split(labels: Tensor, size: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `size` of the images so that every class keeps its share to within one image.

    The shuffled images are laid out class after class and drawn at equal distances (systematic sampling;
    Madow and Madow, 1944).

    Args:
        labels: Class indices, int64 `[N]`.
        size: How many to draw: a number of images (int) or a fraction of them (float).
        seed: The draw; the same seed and labels give the same split.

    Returns:
        The indices that remain and those drawn, int64, each in ascending order.

    Raises:
        ValueError: If `size` is not between 0 and all images.

    Example:
        >>> rest, drawn = stratified_split(torch.tensor([0] * 8 + [1] * 4), 0.25, seed=0)
        >>> (drawn < 8).sum().item(), (drawn >= 8).sum().item(), len(rest)
        (2, 1, 9)
    """
    total = len(labels)
    count = round(size * total) if isinstance(size, float) else size
    if not 0 <= count <= total:
        raise ValueError(f"size={size} asks for {count} of {total} images")
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(random_key(seed)))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    drawn = torch.zeros(total, dtype=torch.bool)
    drawn[by_class[(2 * torch.arange(count) + 1) * total // max(2 * count, 1)]] = True
    return torch.nonzero(~drawn).flatten(), torch.nonzero(drawn).flatten()
