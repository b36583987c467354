"""Draw some of `N` images so that the proportions of their `K` classes stay the same."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.user_error import UserError
from datamodules.batching.randomness import random_key
from datamodules.batching.split import SALT, SplitPlan, uniform


def stratified_split(labels: Tensor, size: int | float, seed: int) -> Tensor:
    """Draw `size` of the images, bool `[N]`, so that each class has its proportion to within one image.

    The images are shuffled, sorted by class, and drawn at equal distances (systematic sampling; Madow and Madow, 1944).
    Another number of images changes the whole draw.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(random_key(seed)))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    return _mask(by_class[_evenly_spaced(size, len(labels))], len(labels))


def hashed_sample(labels: Tensor, hashes: NDArray[np.uint64], size: int | float, seed: int) -> Tensor:
    """Draw `size` of the images, bool `[N]`, each class in proportion to within one, those with the lowest numbers."""
    by_number = torch.argsort(uniform(hashes, random_key(seed, SALT)), stable=True)
    by_class = by_number[torch.argsort(labels[by_number], stable=True)]
    ordered = labels[by_class]
    quotas = torch.bincount(ordered[_evenly_spaced(size, len(labels))], minlength=int(ordered.max()) + 1)
    position_in_class = torch.arange(len(labels)) - torch.searchsorted(ordered, ordered)
    return _mask(by_class[position_in_class < quotas[ordered]], len(labels))


def _evenly_spaced(size: int | float, total: int) -> Tensor:
    """Return `size` indices below `total` at equal distances."""
    count = round(size * total) if isinstance(size, float) else size
    return (2 * torch.arange(count) + 1) * total // max(2 * count, 1)


def _mask(indices: Tensor, total: int) -> Tensor:
    return torch.zeros(total, dtype=torch.bool).index_fill(0, indices, True)


def limited(
    splits: Mapping[str, Tensor],
    labels: Tensor,
    hashes: NDArray[np.uint64],
    limit: int | float,
    plan: SplitPlan,
    fold: Tensor | None,
) -> dict[str, Tensor]:
    """Keep only `limit` of the images, so that each class keeps its proportion in every split or `fold` int64 `[N]`."""
    indices, sizes = torch.cat([*splits.values()]), [len(split_indices) for split_indices in splits.values()]
    if limit > len(indices):
        raise UserError(f"data.limit asks for {limit} of {len(indices)} images; give a smaller one.")
    split = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    key = random_key(plan.seed, 2)
    strata = (split if fold is None else fold[indices]) * (int(labels.max()) + 1) + labels[indices]
    if plan.rule == "shuffle" and fold is None:
        is_kept = stratified_split(strata, limit, key)
    else:
        is_kept = hashed_sample(strata, hashes[indices.numpy()], limit, key)
    masks = torch.split(is_kept, sizes)
    return {name: split_indices[mask] for (name, split_indices), mask in zip(splits.items(), masks, strict=True)}


def rarest_labels(labels: Tensor) -> Tensor:
    """Return the rarest label of each image, int64 `[N]`, K if it has none, to stratify labels uint8 `[N, K]` by."""
    order = labels.sum(dim=0).argsort(stable=True)
    ranked = labels[:, order]
    return torch.where(ranked.bool().any(dim=1), order[ranked.argmax(dim=1)], labels.shape[1])
