from itertools import chain
from typing import Any

import pytest
import torch

from datamodules.batching.sampler import KeyedBatchSampler
from datamodules.batching.shares import balanced_counts

INDICES = torch.arange(100, 203)


def batches(sampler: KeyedBatchSampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler]


@pytest.mark.parametrize("kind", ["shares", "equal", "one"])
def test_an_image_comes_as_often_as_its_weight_says(kind: str) -> None:
    weights = {"shares": torch.arange(1, 104).double() ** 2, "equal": torch.full((103,), 0.3).double()}.get(
        kind, torch.tensor([1e9, *[1e-9] * 102]).double()
    )
    expected, seen = weights / weights.sum() * 103, torch.zeros(103)
    for epoch in range(40):
        sampler = KeyedBatchSampler(INDICES, 10, shuffle=True, weights=weights)
        sampler.set_epoch(epoch)
        counts = torch.bincount(torch.tensor(list(chain(*batches(sampler)))) - 100, minlength=103)
        assert counts.sum() == 103
        assert ((counts - expected).abs() < 1 + 1e-9).all()
        seen += counts
    assert (seen / 40 - expected).abs().max() < 0.3


@pytest.mark.parametrize("images", [0, 30, 103])
@pytest.mark.parametrize(("size", "world_size"), [(7, 1), (9, 4)])
def test_weighted_epochs_resume_behind_any_image(images: int, size: int, world_size: int) -> None:
    weights = torch.arange(1, 104).double()
    whole = KeyedBatchSampler(INDICES, 10, shuffle=True, weights=weights)
    whole.set_epoch(3)
    ranks = [
        KeyedBatchSampler(INDICES, size, shuffle=True, weights=weights, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for rank in ranks:
        rank.resume(3, images)
    together = list(chain(*(chain(*parts) for parts in zip(*map(batches, ranks), strict=True))))
    assert together == list(chain(*batches(whole)))[images:]
    other = KeyedBatchSampler(INDICES, 10, shuffle=True, weights=weights.flip(0))
    assert len({whole.order, other.order, KeyedBatchSampler(INDICES, 10, shuffle=True).order}) == 3


@pytest.fixture
def classes() -> torch.Tensor:
    """A class of 90 images, one of 10 and one of 3."""
    return torch.arange(3).repeat_interleave(torch.tensor([90, 10, 3]))


def test_balanced_gives_each_class_the_same_share(classes: torch.Tensor) -> None:
    sampler = KeyedBatchSampler(INDICES, 10, shuffle=True, balance=classes)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append(torch.tensor(list(chain(*batches(sampler)))) - 100)
    for drawn in epochs:
        assert torch.bincount(classes[drawn]).tolist() == balanced_counts(103, 3) == [35, 34, 34]
        times = torch.bincount(drawn, minlength=103)
        for label in range(3):
            of_class = times[classes == label]
            assert of_class.max() - of_class.min() <= 1, "no image comes twice before all of its class came once"
    assert len(set(epochs[0].tolist()) ^ set(epochs[1].tolist())) > 10, "other images of the large class"


def test_balanced_resumes_and_is_shared_by_processes(classes: torch.Tensor) -> None:
    def sampler(**arguments: Any) -> KeyedBatchSampler:
        return KeyedBatchSampler(INDICES, shuffle=True, balance=classes, **({"batch_size": 5} | arguments))

    resumed = sampler()
    resumed.resume(4, 35)
    whole = sampler()
    whole.set_epoch(4)
    assert batches(resumed) == batches(whole)[7:]
    ranks = [batches(sampler(rank=rank, world_size=2)) for rank in range(2)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == batches(sampler(batch_size=10))
