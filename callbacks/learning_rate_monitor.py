"""The learning rate as a curve."""

from typing import Any

import lightning.pytorch.callbacks
from lightning.pytorch import Trainer


class LearningRateMonitor(lightning.pytorch.callbacks.LearningRateMonitor):
    """Lightning's, with one point for an optimizer step, however many batches it was accumulated over."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Log the rate of the step that begins."""
        if trainer.fit_loop.epoch_loop.batch_idx % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_start(trainer, *args, **kwargs)
