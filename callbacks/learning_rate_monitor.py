"""The learning rate as a curve."""

from typing import Any

import lightning.pytorch.callbacks
from lightning.pytorch import Trainer

from callbacks.run.logged_steps import first_batch, is_logged_step


class LearningRateMonitor(lightning.pytorch.callbacks.LearningRateMonitor):
    """Lightning's, with the first step and each epoch's last, and one point for an optimizer step.

    However many batches that was accumulated over. A schedule by epochs has a point at the start of each.
    """

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log the rate of the step that begins."""
        batch = trainer.fit_loop.epoch_loop.batch_idx - first_batch(trainer)
        begins = batch % trainer.accumulate_grad_batches == 0
        if begins and self.logging_interval != "epoch" and is_logged_step(trainer):
            rates = self._extract_stats(trainer, "any" if self.logging_interval else "step")
            for logger in trainer.loggers if rates else ():
                logger.log_metrics(rates, step=trainer.global_step)
