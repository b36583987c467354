"""The steps for which curves have a point."""

from lightning.pytorch import Trainer


def is_logged_step(trainer: Trainer) -> bool:
    """Whether the optimizer step that is being taken is one of those: the run's first, each n-th, an epoch's last.

    The n-th are Lightning's, by `trainer.log_every_n_steps`; the others are there so that a short run has points too.
    A function of the place in the run alone, so that a resumed run has the same.
    """
    every, step = trainer.log_every_n_steps, trainer.global_step  # type: ignore[attr-defined]  # declared nowhere
    if not every:
        return False
    last = trainer.num_training_batches - 1 - first_batch(trainer)
    batch, accumulated = trainer.fit_loop.epoch_loop.batch_idx - first_batch(trainer), trainer.accumulate_grad_batches
    return step == 0 or (step + 1) % every == 0 or batch // accumulated == last // accumulated


def first_batch(trainer: Trainer) -> int:
    """The batch of this epoch from which on batches are accumulated: that with which it was taken up."""
    return getattr(trainer.fit_loop.epoch_loop, "first_batch", 0)
