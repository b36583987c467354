"""Which images are trained on, and which are not."""

import torch
from torch import Tensor

from datamodules.randomness import random_key

SPLITS = ("train", "val", "test")


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


def draw_splits(
    splits: dict[str, Tensor],
    labels: Tensor,
    *,
    val_size: int | float,
    test_size: int | float,
    limit: int | float | None = None,
    seed: int = 0,
    tests_on_validation: bool = False,
) -> dict[str, Tensor]:
    """Choose the images of each split: drawn from train where there is none, limited, of the classes asked for.

    Args:
        splits: The places of the images of each split that there is, int64; `train` must be there.
        labels: The labels of all images, int64 `[N]`; -1 for a class that is not asked for.
        val_size: The size of a validation split that is drawn: images, or a fraction of those at hand.
        test_size: Likewise of a test split, which is drawn first.
        limit: How many images to keep, or which fraction; every split and class keeps its share.
        seed: The draws.
        tests_on_validation: Whether test is validation.

    Returns:
        The places of the images of `train`, `val` and `test`, int64.

    Raises:
        ValueError: If a size is more than there is, or a split is left without images.
    """
    splits = {name: indices[labels[indices] >= 0] for name, indices in splits.items()}
    drawn_sizes = {"val": val_size} if tests_on_validation else {"test": test_size, "val": val_size}
    if tests_on_validation:
        splits.pop("test", None)
    for name, size in drawn_sizes.items():
        if name not in splits:
            train = splits["train"]
            try:
                rest, drawn = stratified_split(labels[train], size, random_key(seed, ("test", "val").index(name)))
            except ValueError as error:
                raise ValueError(f"{name}_size: {error}; give a smaller one") from error
            splits["train"], splits[name] = train[rest], train[drawn]
    if limit is not None:
        splits = _limited(splits, labels, limit, random_key(seed, 2))
    if tests_on_validation:
        splits["test"] = splits["val"]
    for name in SPLITS:
        if not len(splits[name]):
            raise ValueError(
                f"{name}_size, limit or classes: the {name} split has none of the {len(labels)} images; change them"
            )
    return splits


def _limited(splits: dict[str, Tensor], labels: Tensor, limit: int | float, seed: int) -> dict[str, Tensor]:
    everything = torch.cat(list(splits.values()))
    split_of = torch.arange(len(splits)).repeat_interleave(torch.tensor([len(part) for part in splits.values()]))
    strata = split_of * (int(labels.max()) + 1) + labels[everything]
    try:
        _, kept = stratified_split(strata, limit, seed)
    except ValueError as error:
        raise ValueError(f"limit: {error}; give a smaller one") from error
    return {name: everything[kept[split_of[kept] == number]] for number, name in enumerate(splits)}
