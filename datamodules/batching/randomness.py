"""Randomness as a function of what is being done, so that no generator state ever needs saving."""

import random
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import nn

EVALUATION = -1  # in place of an epoch: what is drawn in validation, test and prediction is the same each time

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
    """The generators that modules, or parts of them, hold as attributes, each once."""
    parts = (part for module in modules for part in module.modules())
    values = (value for part in parts for value in vars(part).values())
    return list({id(value): value for value in values if isinstance(value, Generator)}.values())


def seed_generators(key: int, device: torch.device, own: Sequence[Generator] = ()) -> None:
    """Seed the global generators of torch (on the CPU and on `device`), NumPy and Python, and some others.

    The generators are reached directly: `torch.manual_seed` visits every back end and costs more than a small
    network's forward pass.
    """
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(key)
    elif device.type == "mps":
        torch.mps.manual_seed(key)
    np.random.seed(key % 2**32)
    random.seed(key)
    for number, generator in enumerate(own):
        seed = random_key(key, number)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(seed).state
        else:
            generator.seed(seed % 2**32)
