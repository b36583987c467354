from itertools import chain

import pytest
import torch

from datamodules.batching.sampler import KeyedBatchSampler

INDICES = torch.arange(100, 203)


def batches(sampler: KeyedBatchSampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler]


def test_every_image_comes_once_an_epoch_in_another_order() -> None:
    sampler = KeyedBatchSampler(INDICES, 10, shuffle=True)
    first = batches(sampler)
    sampler.set_epoch(1)
    second = batches(sampler)
    for epoch in (first, second):
        assert [len(batch) for batch in epoch] == [10] * 10 + [3]
        assert sorted(chain(*epoch)) == INDICES.tolist()
    assert len(sampler) == 11
    assert first != second


def test_order_is_a_function_of_seed_and_epoch() -> None:
    torch.manual_seed(1)
    first = batches(KeyedBatchSampler(INDICES, 10, shuffle=True, seed=3))
    torch.manual_seed(2)
    assert first == batches(KeyedBatchSampler(INDICES, 10, shuffle=True, seed=3))
    assert first != batches(KeyedBatchSampler(INDICES, 10, shuffle=True, seed=4))


@pytest.mark.parametrize(("size", "world_size"), [(1, 1), (7, 1), (40, 1), (103, 1), (5, 2), (9, 4)])
@pytest.mark.parametrize("images", [0, 1, 30, 64, 103])
def test_resumes_behind_any_image_in_batches_of_any_size(images: int, size: int, world_size: int) -> None:
    whole = KeyedBatchSampler(INDICES, 10, shuffle=True)
    whole.set_epoch(3)
    ranks = [
        KeyedBatchSampler(INDICES, size, shuffle=True, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for rank in ranks:
        rank.resume(3, images)
    together = list(chain(*(chain(*parts) for parts in zip(*map(batches, ranks), strict=True))))
    assert together == list(chain(*batches(whole)))[images:]
    assert len(batches(ranks[0])) == ranks[0].batches_left(len(ranks[0]))


def test_what_is_left_of_an_epoch_that_is_cut_off() -> None:
    sampler = KeyedBatchSampler(INDICES, 10, shuffle=True)
    for images, batches_left in ((0, 5), (10, 4), (11, 4), (50, 0), (60, 0)):
        sampler.resume(0, images)
        assert sampler.batches_left(5) == batches_left


@pytest.mark.parametrize("done", [0, 1, 7, 11])
def test_resumes_behind_the_batches_done(done: int) -> None:
    whole = KeyedBatchSampler(INDICES, 10, shuffle=True)
    whole.set_epoch(5)
    resumed = KeyedBatchSampler(INDICES, 10, shuffle=True)
    resumed.resume(5, 10 * done)
    resumed.set_epoch(5)
    assert batches(resumed) == batches(whole)[done:]
    assert len(resumed) == len(whole)
    resumed.set_epoch(6)
    assert len(batches(resumed)) == 11


def test_drops_a_last_batch_that_is_not_full() -> None:
    sampler = KeyedBatchSampler(INDICES, 10, shuffle=True, drop_last=True)
    assert [len(batch) for batch in batches(sampler)] == [10] * 10 == [10] * len(sampler)


@pytest.mark.parametrize("world_size", [2, 3, 8, 17, 200])
def test_processes_see_together_what_one_sees_with_the_global_batch(world_size: int) -> None:
    ranks = [
        batches(KeyedBatchSampler(INDICES, 4, shuffle=True, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    alone = batches(KeyedBatchSampler(INDICES, 4 * world_size, shuffle=True))
    assert len({len(rank) for rank in ranks}) == 1
    together = [list(chain(*parts)) for parts in zip(*ranks, strict=True)]
    assert together == alone


@pytest.mark.parametrize("world_size", [1, 2, 4, 200])
def test_evaluation_counts_every_image_once(world_size: int) -> None:
    ranks = [KeyedBatchSampler(INDICES, 10, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(chain(*(chain(*batches(rank)) for rank in ranks))) == INDICES.tolist()
    assert {len(batches(rank)) for rank in ranks} == {len(ranks[0])}, "processes wait for each other in every batch"


def test_repeats_the_first_epoch_and_goes_on_within_it() -> None:
    plain, repeating = (KeyedBatchSampler(INDICES, 10, shuffle=True, repeats=repeats) for repeats in (False, True))
    first = batches(plain)
    assert batches(repeating) == first
    repeating.set_epoch(4)
    assert batches(repeating) == first
    repeating.resume(4, 30)
    assert batches(repeating) == first[3:]
    assert repeating.order != plain.order, "an epoch of one does not go on with the other"
