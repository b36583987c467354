"""Which images are trained on, and which are not."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.names import escape_name
from core.user_error import UserError
from datamodules.batching.groups import apart, divide, draw_groups, numbered
from datamodules.batching.randomness import random_key

SPLITS = ("train", "val", "test")

# How splits are drawn: by `hashed_split`, or by `stratified_split` as in runs from before `hashed_split` existed.
Rule = Literal["hash", "shuffle"]

SALT = 3475  # chosen so that scikit-learn's digits, at the default sizes and seed, come to exactly these sizes


def checked_size(argument: str, size: int | float) -> int | float:
    """A number of images as int, also if it is written 1e4, or a fraction of them as float."""
    if size > 1 and float(size).is_integer():
        return int(size)
    if not size > 0 or (isinstance(size, float) and not size < 1):
        raise UserError(f"data.{argument} is {size}; give a fraction between 0 and 1 or a whole number of images.")
    return size


def uniform(digests: NDArray[np.uint64], key: int) -> Tensor:
    """A number in [0, 1) for each image, float64 `[N]`, that follows from its digest and the key alone."""
    mixed = digests ^ np.uint64(key)  # then the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53)


def hashed_split(labels: Tensor, digests: NDArray[np.uint64], size: int | float, seed: int) -> Tensor:
    """Draw each image with probability `size`, by a number that follows from the seed and its digest alone.

    So an image stays where it is when others come or go, and equal images stay together. A number of images is made a
    fraction of two digits, so that a file more or less seldom changes it. Two exceptions keep small data sets usable:
    the image of the highest number of each class always remains, and if no other falls below `size`, the lowest is
    drawn. Both matter only where a class or a split would have no image. The result is bool `[N]`.
    """
    total = len(labels)
    if isinstance(size, int):
        size = float(f"{size / total:.2g}")
    numbers = uniform(digests, random_key(seed, SALT))
    highest = torch.zeros(int(labels.max()) + 1 if total else 0, dtype=numbers.dtype)
    may_be_drawn = numbers < highest.scatter_reduce(0, labels, numbers, "amax")[labels]
    drawn = may_be_drawn & (numbers < size)
    if not drawn.any() and may_be_drawn.any() and size * total >= 0.5:
        drawn = may_be_drawn & (numbers == numbers[may_be_drawn].min())
    return drawn


def stratified_split(labels: Tensor, size: int | float, seed: int) -> Tensor:
    """Draw `size` of the images, bool `[N]`, so that every class keeps its share to within one image.

    The shuffled images are laid out class after class and drawn at equal distances (systematic sampling;
    Madow and Madow, 1944). Another number of images gives another draw of all of them.

    Example:
        >>> drawn = stratified_split(torch.tensor([0] * 8 + [1] * 4), 0.25, seed=0)
        >>> drawn[:8].sum().item(), drawn[8:].sum().item()
        (2, 1)
    """
    total = len(labels)
    places = _evenly_spaced(size, total)
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(random_key(seed)))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    drawn = torch.zeros(total, dtype=torch.bool)
    drawn[by_class[places]] = True
    return drawn


def hashed_sample(labels: Tensor, digests: NDArray[np.uint64], size: int | float, seed: int) -> Tensor:
    """Choose `size` of the images, bool `[N]`, of each class its share to within one: those of the lowest numbers."""
    by_number = torch.argsort(uniform(digests, random_key(seed, SALT)), stable=True)
    by_class = by_number[torch.argsort(labels[by_number], stable=True)]
    ordered = labels[by_class]
    quotas = torch.bincount(ordered[_evenly_spaced(size, len(labels))], minlength=int(ordered.max()) + 1)
    rank = torch.arange(len(labels)) - torch.searchsorted(ordered, ordered)
    return torch.zeros(len(labels), dtype=torch.bool).index_fill(0, by_class[rank < quotas[ordered]], True)


def _evenly_spaced(size: int | float, total: int) -> Tensor:
    """`size` places among `total`, at equal distances."""
    count = round(size * total) if isinstance(size, float) else size
    return (2 * torch.arange(count) + 1) * total // max(2 * count, 1)


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """The images of each class, int64 `[K]`, from labels int64 `[N]`, -1 for none, or uint8 `[N, K]`."""
    return labels.sum(dim=0) if labels.ndim == 2 else torch.bincount(labels + 1, minlength=num_classes + 1)[1:]


def rarest_labels(labels: Tensor) -> Tensor:
    """The rarest label of each image, int64 `[N]`, K for none, from labels uint8 `[N, K]`; splits keep its shares."""
    order = labels.sum(dim=0).argsort(stable=True)
    ranked = labels[:, order]
    return torch.where(ranked.bool().any(dim=1), order[ranked.argmax(dim=1)], labels.shape[1])


def draw_splits(
    splits: dict[str, Tensor],
    labels: Tensor,
    digests: NDArray[np.uint64],
    *,
    val_size: int | float,
    test_size: int | float,
    limit: int | float | None = None,
    seed: int = 0,
    tests_on_validation: bool = False,
    rule: Rule = "hash",
    groups: NDArray[Any] | None = None,
    fold: NDArray[np.int64] | None = None,
) -> dict[str, Tensor]:
    """Choose the images of each split: drawn from train where the source has no such split, then limited.

    Places of images are int64, labels int64 `[N]` with -1 for a class that is not used, digests uint64 `[N]`; sizes and
    `limit` are numbers of images or fractions. Test is drawn first, unless it is the same as validation.

    With `groups`, whole groups are drawn, whatever the rule: of each class a split has its share as nearly as groups
    allow, and one that comes or goes may move others. `limit` leaves out images of all groups, and of all folds by a
    `fold` of each image, so that it leaves out the same whichever fold is the test split.

    The result has `train`, `val` and `test`. A split without images is a UserError, and so is a group in two of the
    splits given.
    """
    splits = {name: indices[labels[indices] >= 0] for name, indices in splits.items()}
    if groups is not None:
        places = torch.cat(list(splits.values())).numpy()
        split, names, groups = np.repeat(list(splits), list(map(len, splits.values()))), groups, numbered(groups)
        if (crossing := apart(groups[places], split)).size:
            one, other = crossing[:, 0]
            raise UserError(
                f"The group {escape_name(names[places[one]])} has images in {split[other]} and {split[one]}; put all "
                "of them into one, or leave out the group column."
            )
    drawn_sizes = {"test": test_size, "val": val_size}
    if tests_on_validation:
        del drawn_sizes["test"]
        splits.pop("test", None)
    for name, size in drawn_sizes.items():
        if name not in splits:
            train, key = splits["train"], random_key(seed, ("test", "val").index(name))
            if size >= max(1, len(train)):
                raise UserError(f"data.{name}_size asks for {size} of {len(train)} images; give a smaller one.")
            if groups is not None:
                order = uniform(digests[train.numpy()], key).numpy()
                drawn = torch.from_numpy(draw_groups(labels[train].numpy(), groups[train.numpy()], order, size))
            elif rule == "shuffle":
                drawn = stratified_split(labels[train], size, key)
            else:
                drawn = hashed_split(labels[train], digests[train.numpy()], size, key)
            splits["train"], splits[name] = train[~drawn], train[drawn]
    if limit is not None:
        everything, sizes, key = torch.cat(list(splits.values())), list(map(len, splits.values())), random_key(seed, 2)
        parts = torch.arange(len(splits)).repeat_interleave(torch.tensor(sizes))
        if fold is not None:
            parts = torch.from_numpy(fold)[everything]
        strata = parts * (int(labels.max()) + 1) + labels[everything]
        if limit > len(everything):
            raise UserError(f"data.limit asks for {limit} of {len(everything)} images; give a smaller one.")
        if rule == "shuffle" and fold is None:
            kept = stratified_split(strata, limit, key)
        else:
            kept = hashed_sample(strata, digests[everything.numpy()], limit, key)
        splits = {name: part[some] for (name, part), some in zip(splits.items(), torch.split(kept, sizes), strict=True)}
    if tests_on_validation:
        splits["test"] = splits["val"]
    for name in SPLITS:
        if not len(splits[name]):
            raise UserError(
                f"data.{name}_size, limit or classes: the {name} split has none of the {len(labels)} images (each "
                "class keeps one to be trained on); change them, or use more images."
            )
    return splits


def fold_of(
    strata: NDArray[np.int64], digests: NDArray[np.uint64], groups: NDArray[np.int64] | None, folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold of each image in a cross-validation, int64 `[N]`: alike in size and strata, int64 `[N]`, such as labels.

    Without groups, the folds' images of each stratum, and all of their images, differ by one at most, and images of
    equal digests share a fold. With groups, `datamodules.batching.groups.divide` divides them. Another image may change
    the fold of others; the order of images does not matter.
    """
    order = uniform(digests, random_key(seed, 3, SALT)).numpy()
    if groups is not None:
        return divide(strata, groups, order, [1 / folds] * folds)
    _, first, copies = np.unique(digests, return_index=True, return_inverse=True)
    fold = np.empty(len(first), np.int64)
    fold[np.lexsort((order[first], strata[first]))] = np.arange(len(first)) % folds
    return fold[copies]


def check_folds(folds: int, labels: NDArray[Any], groups: NDArray[np.int64] | None, class_names: Sequence[str]) -> None:
    """Refuse more folds than a class has images or groups; labels are int64 `[N]` or uint8 `[N, K]`."""
    images, kinds = np.nonzero(labels) if labels.ndim == 2 else (np.arange(len(labels)), labels)
    units = images if groups is None else groups[images]
    counts = np.bincount(np.unique(units * len(class_names) + kinds) % len(class_names))
    if counts.min() < folds:
        raise UserError(
            f"data.folds is {folds}, but the class {class_names[int(counts.argmin())]} has only {counts.min()} "
            f"{'images' if groups is None else 'groups'}; give fewer folds, or leave it out of --data.classes."
        )
