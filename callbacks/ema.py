"""Exponential moving average of the weights."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.weight_average import WeightAverage


class EMA(WeightAverage):
    """Evaluates and stores an exponential moving average of the weights (Polyak and Juditsky, 1992).

    After optimizer step `t = 1, 2, ...`, however many batches it was accumulated over,
    `average = d * average + (1 - d) * weights` with `d = min(decay, (1 + t) / (10 + t))`: the warm-up of TensorFlow's
    `ExponentialMovingAverage`, by which the random weights at the start are forgotten at once. A step's weights count
    half after `log(0.5) / log(decay)` further steps: 693 for 0.999, 69 for 0.99. With the warm-up, a decay of 0.999 is
    reached after 8,990 steps; until then the average spans about the last ninth of the steps.

    What is validated, tested and stored is described in `callbacks.weight_average.WeightAverage`.

    Args:
        decay: What is kept of the average in each step, in the end.

    Raises:
        ValueError: If decay is outside [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; give a number from 0 to below 1, such as 0.999")
        self.decay = decay
        self._step = 0

    def share(self, updates: int) -> float:
        """The share in the average of the weights after step `updates + 1`."""
        step = updates + 1
        return 1 - min(self.decay, (1 + step) / (10 + step))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights at the start, which nothing was learnt with yet."""
        super().on_fit_start(trainer, pl_module)
        if self._average is None:
            self._begin()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step that a resumed run stands at."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in the weights if they were stepped; with accumulated gradients, not every batch does."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self._update()
