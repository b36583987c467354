"""Whether a process has the whole network."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy


def has_all_weights(trainer: Trainer) -> bool:
    """Whether the weights and gradients of this process are all that there are, not its part of them."""
    return not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
