from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from core.user_error import UserError
from datamodules.batching.groups import divide, draw_groups, fold_of, numbered
from datamodules.batching.split import SplitPlan

TABLES = 1000


def random_table(seed: int) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.uint64]]:
    """Labels, groups and digests; in some tables a group is of one class, in others of all."""
    random = np.random.default_rng(seed)
    groups, classes = random.integers(6, 40), random.integers(2, 6)
    sizes = random.geometric(1 / random.integers(1, 12), groups)
    mixes = random.dirichlet(np.full(classes, random.choice([0.05, 0.5, 5.0])), groups)
    below = mixes.cumsum(axis=1)[:, :-1].repeat(sizes, axis=0)
    labels = (random.random((len(below), 1)) > below).sum(axis=1)
    names = np.repeat(np.array([f"patient {number}" for number in range(groups)], object), sizes)
    order = random.permutation(len(labels))
    return labels[order], names[order], random.integers(2**64, size=len(labels), dtype=np.uint64)


def are_together(groups: NDArray[Any], parts: Iterable[Any]) -> bool:
    """Whether each group is in one part."""
    return len({*zip(groups, parts, strict=True)}) == len({*groups})


def test_no_group_crosses_splits_in_a_thousand_tables() -> None:
    drawn = 0
    for seed in range(TABLES):
        labels, groups, digests = random_table(seed)
        arguments: dict[str, Any] = {"class_names": [*"abcde"][: labels.max() + 1], "val_size": 0.15, "seed": seed}
        if seed % 2:
            arguments |= {"limit": 0.7, "rule": ("hash", "shuffle")[seed // 2 % 2]}
        splits: dict[str, torch.Tensor] = {}
        with suppress(UserError):  # where each group has the last images of a class
            given = {"train": torch.arange(len(labels))}
            splits = SplitPlan(**arguments).draw(given, torch.from_numpy(labels), digests, {"group": groups})
        if not splits:
            continue
        drawn += 1
        names = [name for name, places in splits.items() for _ in places]
        places = torch.cat(list(splits.values())).numpy()
        assert len(set(places.tolist())) == len(places)
        assert seed % 2 or len(places) == len(labels)
        assert are_together(groups[places], names)
        if "limit" not in arguments:
            assert set(labels[splits["train"]].tolist()) == set(labels.tolist()), "each class keeps a group to train on"
    assert drawn > 0.9 * TABLES


def imbalance(labels: NDArray[np.int64], parts: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """The chi-squared distance of the classes in each part from their shares."""
    classes = int(labels.max()) + 1
    counts = np.bincount(parts * classes + labels, minlength=len(shares) * classes).reshape(len(shares), classes)
    expected = np.outer(shares, np.bincount(labels))
    return float(((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum())


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_have_each_image_once_whole_groups_and_classes_as_even_as_scikit_learns() -> None:
    ours, theirs, sizes, their_sizes = [], [], [], []
    for seed in range(TABLES):
        labels, groups, digests = random_table(seed)
        folds = 2 + seed % 4
        fold = fold_of(labels, digests, numbered(groups), folds, seed)
        assert set(fold.tolist()) == set(range(folds))
        assert are_together(groups, fold)
        if seed % 10 == 0 and np.bincount(labels).max() >= folds:
            reference = np.empty_like(fold)
            splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
            for number, (_, test) in enumerate(splitter.split(labels, labels, groups)):
                reference[test] = number
            shares = np.full(folds, 1 / folds)
            ours.append(imbalance(labels, fold, shares))
            theirs.append(imbalance(labels, reference, shares))
            sizes.append(np.ptp(np.bincount(fold)) / len(fold))
            their_sizes.append(np.ptp(np.bincount(reference)) / len(fold))
    assert len(ours) > TABLES / 20
    assert np.mean(ours) <= 1.02 * np.mean(theirs)
    assert np.mean(sizes) <= np.mean(their_sizes)


def test_does_not_depend_on_the_order_of_images() -> None:
    labels, groups, digests = random_table(0)
    order = np.random.default_rng(0).permutation(len(labels))
    fold = fold_of(labels, digests, numbered(groups), 4, 0)
    assert fold_of(labels[order], digests[order], numbered(groups[order]), 4, 0).tolist() == fold[order].tolist()
    assert fold_of(labels, digests, numbered(groups), 4, 1).tolist() != fold.tolist()


def test_large_groups_are_spread_like_small_ones() -> None:
    groups = np.repeat(np.arange(40), np.repeat([50, 5], 20))
    parts = divide(np.zeros(len(groups), np.int64), groups, np.random.default_rng(0).random(len(groups)), (0.75, 0.25))
    assert np.bincount(parts[groups < 20]).tolist() == [750, 250]
    assert np.bincount(parts[groups >= 20]).tolist() == [75, 25]


def test_equal_pure_groups_are_divided_exactly() -> None:
    labels, groups = np.arange(200) // 100, np.arange(200) // 5
    parts = divide(labels, groups, np.random.default_rng(0).random(200), [0.2] * 5)
    assert np.bincount(parts * 2 + labels).tolist() == [20] * 10


def test_few_groups_give_each_split_one() -> None:
    groups = np.repeat(np.array(["a", "b", "c"], object), 10)
    labels, digests = torch.arange(30) % 2, np.arange(30, dtype=np.uint64)
    splits = SplitPlan([*"ab"]).draw({"train": torch.arange(30)}, labels, digests, {"group": groups})
    assert {name: len(places) for name, places in splits.items()} == {"train": 10, "test": 10, "val": 10}


def test_a_class_of_one_group_stays_in_training() -> None:
    groups, labels = np.repeat(np.arange(6), 10), np.repeat([0, 0, 0, 0, 0, 1], 10)
    for share in (0.1, 0.5, 0.95):
        drawn = draw_groups(labels, groups, np.random.default_rng(0).random(60), share)
        assert drawn.any()
        assert not drawn[groups == 5].any()
        assert not drawn[groups < 5].all()


@pytest.mark.parametrize("test", [[5, 6], [4]])
def test_a_group_in_two_given_splits_is_refused(test: list[int]) -> None:
    groups = np.array(["a", "a", "b", "b", "b\x1b", "a", "c"], object)
    splits = {"train": torch.arange(4), "test": torch.tensor(test), "val": torch.tensor([6])}
    plan = SplitPlan([*"ab"], val_size=0.5, test_size=0.5)
    labels, digests = torch.tensor([0, 1, 0, 1, 0, 1, 0]), np.arange(7, dtype=np.uint64)
    if test == [4]:
        assert plan.draw(splits, labels, digests, {"group": groups})["test"].tolist() == [4]
        return
    with pytest.raises(UserError, match="The group a has images in train and test; put all of them into one, or leave"):
        plan.draw(splits, labels, digests, {"group": groups})
