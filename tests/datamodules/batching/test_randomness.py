import random

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.batching.randomness import own_generators, random_key, seed_generators
from tests.faults.noise import Noise


def test_keys_are_spread_and_tell_all_parts_apart() -> None:
    keys = [random_key(seed, epoch, batch) for seed in range(4) for epoch in range(4) for batch in range(4)]
    assert len({key % 2**32 for key in keys}) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)
    assert random_key(1) != random_key(1, 0)


def test_keys_are_the_same_everywhere() -> None:
    assert random_key(0, 1, 2) == 4450782424123420391


def test_seeding_decides_what_is_drawn() -> None:
    device, noise = torch.device("cpu"), Noise()
    own = own_generators([nn.Sequential(noise), noise])
    assert len(own) == 3

    def drawn(key: int) -> list[float]:
        seed_generators(key, device, own)
        globally = [float(torch.rand(())), np.random.rand(), random.random()]
        return [*globally, float(torch.rand((), generator=noise.torch)), noise.numpy.random(), noise.python.random()]

    first = drawn(7)
    assert len(set(first)) == len(first)
    assert drawn(7) == first
    assert not set(drawn(8)) & set(first)


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_seeds_every_kind_of_numpys_generators(kind: type[np.random.BitGenerator]) -> None:
    generator = np.random.Generator(kind(0))
    numbers = []
    for _ in range(2):
        seed_generators(7, torch.device("cpu"), [generator])
        numbers.append(generator.random())
    assert numbers[0] == numbers[1]
