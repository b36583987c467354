"""Randomness as a function of what is being done, so that no generator state ever needs saving."""

import struct
from hashlib import blake2b

import torch


def random_key(*parts: int) -> int:
    """Mix integers such as (seed, epoch, batch, rank) into one well-spread 63-bit seed.

    Args:
        parts: Signed 64-bit integers; their order and number matter.

    Returns:
        An integer in [0, 2**63), the same on every machine and in every release of Python.

    Example:
        >>> random_key(0, 1) == random_key(0, 1), random_key(0, 1) == random_key(1, 0)
        (True, False)
    """
    digest = blake2b(struct.pack(f"<{len(parts)}q", *parts), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generators(key: int, device: torch.device) -> None:
    """Seed torch's generator on the CPU and the one of `device`.

    The generators are reached directly: `torch.manual_seed` visits every back end and costs more than a small
    network's forward pass.

    Args:
        key: The seed, for example from `random_key`.
        device: Where the training runs.
    """
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(key)
    elif device.type == "mps":
        torch.mps.manual_seed(key)
