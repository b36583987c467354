import torch

from datamodules.randomness import random_key, seed_generators


def test_keys_are_spread_and_tell_all_parts_apart() -> None:
    keys = [random_key(seed, epoch, batch) for seed in range(4) for epoch in range(4) for batch in range(4)]
    assert len({key % 2**32 for key in keys}) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)
    assert random_key(1) != random_key(1, 0)


def test_keys_are_the_same_everywhere() -> None:
    assert random_key(0, 1, 2) == 4450782424123420391


def test_seeding_decides_what_is_drawn() -> None:
    device = torch.device("cpu")
    seed_generators(7, device)
    first = torch.rand(3)
    torch.rand(5)
    seed_generators(7, device)
    assert torch.equal(first, torch.rand(3))
    seed_generators(8, device)
    assert not torch.equal(first, torch.rand(3))
