"""The steps at which curves have a point."""

from lightning.pytorch import Trainer


def is_logged_step(trainer: Trainer) -> bool:
    """True in the run's first optimizer step, each n-th (`trainer.log_every_n_steps`), and an epoch's last.

    It depends on the place in the run alone, so that a resumed run has the same points.
    """
    every, step = trainer.log_every_n_steps, trainer.global_step  # type: ignore[attr-defined]  # declared nowhere
    if not every:
        return False
    last = trainer.num_training_batches - 1 - first_batch(trainer)
    batch, accumulated = trainer.fit_loop.epoch_loop.batch_idx - first_batch(trainer), trainer.accumulate_grad_batches
    return step == 0 or (step + 1) % every == 0 or batch // accumulated == last // accumulated


def first_batch(trainer: Trainer) -> int:
    """The batch with which this epoch was resumed, from which on gradients are accumulated."""
    return getattr(trainer.fit_loop.epoch_loop, "first_batch", 0)
