"""Exponential moving average of the weights."""

from functools import lru_cache
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from callbacks.weight_average import WeightAverage

_update_by = lru_cache(maxsize=1)(get_ema_multi_avg_fn)  # called again only while the decay changes, during the warm-up


class EMA(WeightAverage):
    """Evaluates and stores an exponential moving average of the weights (Polyak and Juditsky, 1992).

    After optimizer step `t = 1, 2, ...`, whatever the number of accumulated batches,
    `average = d * average + (1 - d) * weights` with `d = min(decay, (1 + t) / (10 + t))`, the warm-up of TensorFlow's
    `ExponentialMovingAverage`. A step's weights count half after `log(0.5) / log(decay)` further steps: 693 for 0.999,
    69 for 0.99. A decay of 0.999 is reached after 8,990 steps; until then the average spans about their last ninth.

    See `callbacks.weight_average.WeightAverage` for what is validated, tested and stored.

    Args:
        decay: The fraction of the average that a step keeps after the warm-up.

    Raises:
        ValueError: If decay is outside [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; give a number from 0 to below 1, such as 0.999")
        self.decay = decay
        self._step = 0

    def decay_after(self, updates: int) -> float:
        """Return the decay of step `updates + 1`."""
        step = updates + 1
        return min(self.decay, (1 + step) / (10 + step))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with the weights before the first step."""
        super().on_fit_start(trainer, pl_module)
        if self._average is None:
            self._begin()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the step at which a resumed run starts."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Update the average if this batch has ended an optimizer step."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self._update(_update_by(self.decay_after(self.updates)))
