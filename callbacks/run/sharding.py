"""Strategies that spread the weights over processes."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy


def has_all_weights(trainer: Trainer) -> bool:
    """True if each process has all weights and gradients, not a part of them."""
    return not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
