"""Seed all generators by the position in a run, so that checkpoints need no generator state."""

import random
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import nn

EVALUATION = -1  # used as the epoch in validation, test and prediction, which draw the same numbers each time

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


def random_key(*parts: int) -> int:
    """Mix integers such as (seed, epoch, batch, rank) into one well-spread 63-bit seed.

    Example:
        >>> random_key(0, 1) == random_key(0, 1), random_key(0, 1) == random_key(1, 0)
        (True, False)
    """
    digest = blake2b(struct.pack(f"<{len(parts)}q", *parts), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def own_generators(modules: Iterable[nn.Module]) -> list[Generator]:
    """Return the generators that modules, or modules inside them, hold as attributes, without duplicates."""
    parts = (part for module in modules for part in module.modules())
    values = (value for part in parts for value in vars(part).values())
    return list({id(value): value for value in values if isinstance(value, Generator)}.values())


def seed_generators(key: int, device: torch.device, generators: Sequence[Generator] = ()) -> None:
    """Seed the global generators of torch (on the CPU and on `device`), NumPy and Python, and further `generators`.

    `torch.manual_seed` is not used: it seeds every backend, which takes longer than a small network's forward pass.
    """
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(key)
    elif device.type == "mps":
        torch.mps.manual_seed(key)
    np.random.seed(key % 2**32)
    random.seed(key)
    for number, generator in enumerate(generators):
        seed = random_key(key, number)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(seed).state
        else:
            generator.seed(seed % 2**32)
