"""Draws of some images that keep each class's share."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.user_error import UserError
from datamodules.batching.randomness import random_key
from datamodules.batching.split import SALT, SplitPlan, uniform


def stratified_split(labels: Tensor, size: int | float, seed: int) -> Tensor:
    """Draw `size` of the images, bool `[N]`, so that every class keeps its share to within one image.

    The shuffled images are laid out class after class and drawn at equal distances (systematic sampling;
    Madow and Madow, 1944). Another number of images gives another draw of all of them.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(random_key(seed)))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    return _marked(by_class[_evenly_spaced(size, len(labels))], len(labels))


def hashed_sample(labels: Tensor, digests: NDArray[np.uint64], size: int | float, seed: int) -> Tensor:
    """Choose `size` of the images, bool `[N]`, of each class its share to within one: those of the lowest numbers."""
    by_number = torch.argsort(uniform(digests, random_key(seed, SALT)), stable=True)
    by_class = by_number[torch.argsort(labels[by_number], stable=True)]
    ordered = labels[by_class]
    quotas = torch.bincount(ordered[_evenly_spaced(size, len(labels))], minlength=int(ordered.max()) + 1)
    rank = torch.arange(len(labels)) - torch.searchsorted(ordered, ordered)
    return _marked(by_class[rank < quotas[ordered]], len(labels))


def _evenly_spaced(size: int | float, total: int) -> Tensor:
    """`size` places among `total`, at equal distances."""
    count = round(size * total) if isinstance(size, float) else size
    return (2 * torch.arange(count) + 1) * total // max(2 * count, 1)


def _marked(places: Tensor, total: int) -> Tensor:
    return torch.zeros(total, dtype=torch.bool).index_fill(0, places, True)


def limited(
    splits: Mapping[str, Tensor],
    labels: Tensor,
    digests: NDArray[np.uint64],
    limit: int | float,
    plan: SplitPlan,
    fold: Tensor | None,
) -> dict[str, Tensor]:
    """Leave out all but `limit` of the images, so that every class keeps its share in every split or `fold`, `[N]`."""
    everything, sizes = torch.cat([*splits.values()]), [len(places) for places in splits.values()]
    if limit > len(everything):
        raise UserError(f"data.limit asks for {limit} of {len(everything)} images; give a smaller one.")
    split, key = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), random_key(plan.seed, 2)
    strata = (split if fold is None else fold[everything]) * (int(labels.max()) + 1) + labels[everything]
    if plan.rule == "shuffle" and fold is None:
        kept = stratified_split(strata, limit, key)
    else:
        kept = hashed_sample(strata, digests[everything.numpy()], limit, key)
    parts = zip(splits.items(), torch.split(kept, sizes), strict=True)
    return {name: places[some] for (name, places), some in parts}


def rarest_labels(labels: Tensor) -> Tensor:
    """The rarest label of each image, int64 `[N]`, K for none, from labels uint8 `[N, K]`; splits keep its shares."""
    order = labels.sum(dim=0).argsort(stable=True)
    ranked = labels[:, order]
    return torch.where(ranked.bool().any(dim=1), order[ranked.argmax(dim=1)], labels.shape[1])
