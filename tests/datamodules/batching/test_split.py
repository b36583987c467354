from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.user_error import UserError
from datamodules.batching.split import Rule, SplitPlan, hashed_split, uniform
from datamodules.batching.stratified import hashed_sample, stratified_split


def test_follows_the_seed_alone(labels: Tensor, digests: NDArray[np.uint64]) -> None:
    for first, again, other in (
        [stratified_split(labels, 0.3, seed).tolist() for seed in (0, 0, 1)],
        [hashed_split(labels, digests, 0.3, seed).tolist() for seed in (0, 0, 1)],
        [hashed_sample(labels, digests, 0.3, seed).tolist() for seed in (0, 0, 1)],
    ):
        assert first == again != other


@pytest.mark.parametrize("rule", ["hash", "shuffle"])
@pytest.mark.parametrize("grouped", [False, True])
def test_refuses_more_than_there_is(labels: Tensor, digests: NDArray[np.uint64], rule: Rule, grouped: bool) -> None:
    columns = {"group": np.arange(201).astype(str)} if grouped else {}
    sizes: dict[str, Any] = {"class_names": [*"abcde"], "rule": rule}
    for argument, size in (("test_size", 201), ("val_size", 200), ("limit", 202)):
        with pytest.raises(UserError, match=rf"^data.{argument} asks for {size} of \d+ images; give a smaller one.$"):
            SplitPlan(**sizes | {argument: size}).draw({"train": torch.arange(201)}, labels, digests, columns)
    drawn = SplitPlan(**sizes, limit=201).draw({"train": torch.arange(201)}, labels, digests, columns)
    assert sum(map(len, drawn.values())) == 201


def mixed(number: int) -> float:
    """The finalizer of SplitMix64 in Python's integers."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        number = (number ^ (number >> shift)) * factor % 2**64
    return ((number ^ (number >> 31)) >> 11) / 2**53


def test_numbers_are_the_same_on_every_machine() -> None:
    digests = [0, 1, 2**63, 2**64 - 1]
    assert uniform(np.array(digests, np.uint64), 17).tolist() == [mixed(digest ^ 17) for digest in digests]


def splits_of(digests: NDArray[np.uint64], labels: Tensor, **arguments: Any) -> dict[int, str]:
    plan = SplitPlan([*"abcdefg"], **arguments)
    splits = plan.draw({"train": torch.arange(len(labels))}, labels, digests, {})
    return {int(digests[place]): name for name, places in splits.items() for place in places.tolist()}


@pytest.mark.parametrize("arguments", [{}, {"limit": 0.5}, {"limit": 700}, {"val_size": 300}, {"seed": 3}])
def test_images_that_come_or_go_move_no_other(arguments: dict[str, float]) -> None:
    random = np.random.default_rng(1)
    digests = random.integers(2**64, size=2000, dtype=np.uint64)
    labels = torch.from_numpy(random.integers(7, size=2000))
    before = splits_of(digests, labels, **arguments)
    for kept in (np.arange(1999), np.flatnonzero(random.random(2000) < 0.98), random.permutation(2000)):
        after = splits_of(digests[kept], labels[kept], **arguments)
        assert {image: split for image, split in after.items() if before.get(image, split) != split} == {}
        assert len(before.keys() - after.keys()) <= 2000 - len(kept) + (30 if "limit" in arguments else 0)


def test_sizes_are_met_on_average_in_every_class() -> None:
    random = np.random.default_rng(2)
    labels = torch.arange(4).repeat(5000)
    shares = []
    for _ in range(10):
        drawn = hashed_split(labels, random.integers(2**64, size=20_000, dtype=np.uint64), 0.2, seed=0)
        shares.append(torch.bincount(labels[drawn], minlength=4) / 5000)
    assert torch.stack(shares).sub(0.2).abs().max() < 5 * (0.2 * 0.8 / 5000) ** 0.5
    assert torch.stack(shares).mean(dim=0).sub(0.2).abs().max() < 5 * (0.2 * 0.8 / 50_000) ** 0.5


def test_every_class_keeps_an_image_and_a_split_that_is_asked_for_gets_one() -> None:
    random = np.random.default_rng(3)
    labels = torch.arange(50).repeat_interleave(torch.tensor([1, 2] * 25))
    for seed in range(20):
        digests = random.integers(2**64, size=75, dtype=np.uint64)
        drawn = hashed_split(labels, digests, 0.5, seed)
        assert labels[~drawn].unique().tolist() == list(range(50))  # type: ignore[no-untyped-call]
        assert not set(labels[drawn].tolist()) & set(range(0, 50, 2)), "the only image of a class"
        ten = torch.arange(10) % 2
        splits = SplitPlan([*"ab"], seed=seed).draw({"train": torch.arange(10)}, ten, digests[:10], {})
        assert all(map(len, splits.values()))


def test_copies_stay_together() -> None:
    digests = np.random.default_rng(4).integers(2**64, size=100, dtype=np.uint64).repeat(2)
    labels = torch.arange(200) // 50
    for size in (0.02, 0.5, 0.98):
        drawn = hashed_split(labels, digests, size, seed=0)
        assert drawn[::2].tolist() == drawn[1::2].tolist()
