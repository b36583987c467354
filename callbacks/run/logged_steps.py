"""The steps at which curves have a point, and whether whole weights and gradients are available to log."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy


def is_logged_step(trainer: Trainer) -> bool:
    """True in a run's first optimizer step, in every n-th (`trainer.log_every_n_steps`), and in an epoch's last."""
    # This depends only on the position in the run, so that a resumed run logs at the steps of an unbroken one.
    every, step = trainer.log_every_n_steps, trainer.global_step  # type: ignore[attr-defined]  # declared nowhere
    if not every:
        return False
    last = trainer.num_training_batches - 1 - first_batch(trainer)
    batch, accumulated = trainer.fit_loop.epoch_loop.batch_idx - first_batch(trainer), trainer.accumulate_grad_batches
    return step == 0 or (step + 1) % every == 0 or batch // accumulated == last // accumulated


def first_batch(trainer: Trainer) -> int:
    """Return the index of the batch at which this epoch was resumed; gradient accumulation starts there."""
    return getattr(trainer.fit_loop.epoch_loop, "first_batch", 0)


def has_all_weights(trainer: Trainer) -> bool:
    """True if each rank has all weights and gradients; False if a strategy shards them over ranks."""
    return not isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
