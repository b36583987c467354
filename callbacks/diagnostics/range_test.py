"""The learning-rate range test."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from core.user_error import UserError

SMOOTHING = 0.8  # by this the weight of a loss falls from step to step: the mean is over some five to each side
DIVERGED = 4.0  # the test ends at a running mean of so many times the lowest; fastai's rule and Lightning's
CEILING = 1.5  # a loss counts as at most so many times the first losses, lest the last ones outweigh all others
UNSETTLED = 10  # first steps, which tell how much the loss varies by itself; Lightning leaves out as many
FEWEST_STEPS = 3 * UNSETTLED  # enough steps for a curve after the first ones are left out


class RangeTest(Callback):
    """Raises the learning rate from step to step of a training and notes the loss of each (Smith, 2017).

    The rate grows by a constant factor, so that every decade has as many steps (Gugger, 2018). Groups of parameters
    keep their proportions: the group with the largest rate of its own gets the tested rate. Training stops when the
    running mean of the loss exceeds four times its lowest value, or a loss is not finite. The rates of a schedule are
    overwritten; train without one. A step's loss is the mean over all its accumulated batches, of all processes.

    Args:
        min_lr: The learning rate of the first step.
        max_lr: The learning rate of the last step.
        steps: Optimizer steps.
        advance: Called after each step.

    Raises:
        UserError: If these make no range.
    """

    def __init__(self, min_lr: float, max_lr: float, steps: int, advance: Callable[[], None] = lambda: None) -> None:
        if not 0 < min_lr < max_lr < math.inf:
            raise UserError(
                f"--min_lr is {min_lr:g} and --max_lr {max_lr:g}; give positive numbers, the second larger."
            )
        if steps < FEWEST_STEPS:
            raise UserError(f"--steps is {steps}; give a whole number of at least {FEWEST_STEPS}.")
        self.lrs = [float(lr) for lr in np.geomspace(min_lr, max_lr, steps)]
        self.losses: list[float] = []  # of each step done; the last may not be finite
        self._advance = advance
        self._parts: list[float] = []
        self._loss = 0.0  # of the step that is being done
        self._mean, self._lowest = 0.0, math.inf

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rates = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]
        self._parts = [rate / max(rates) if max(rates) else 1.0 for rate in rates]

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for group, part in zip(trainer.optimizers[0].param_groups, self._parts, strict=True):
            group["lr"] = part * self.lrs[len(self.losses)]

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss += float(trainer.strategy.reduce(outputs["loss"]))  # its part of the step's
        if trainer.global_step == len(self.losses):
            return
        self.losses.append(self._loss)
        self._advance()
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * self._loss
        mean = self._mean / (1 - SMOOTHING ** len(self.losses))
        self._lowest = min(self._lowest, mean)
        diverged = not math.isfinite(mean) or mean > DIVERGED * self._lowest
        trainer.should_stop = diverged or len(self.losses) == len(self.lrs)
        self._loss = 0.0


def smooth(losses: Sequence[float]) -> list[float]:
    """Exponential mean of the finite losses to both sides, so that nothing is shifted towards later steps.

    At the ends, where one side is missing, the weights still sum to 1. A loss counts as at most 1.5 times the first.
    """
    finite = np.array([loss for loss in losses if math.isfinite(loss)])
    if not len(finite):
        return []
    finite = finite.clip(max=CEILING * finite[:UNSETTLED].mean())
    weights = SMOOTHING ** np.abs(np.arange(1 - len(finite), len(finite)))
    smoothed = np.convolve(finite, weights, "valid") / np.convolve(np.ones(len(finite)), weights, "valid")
    return [float(loss) for loss in smoothed]


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """The rate where the smoothed loss falls fastest, and a tenth of the rate where it is lowest."""
    smoothed = np.array(smooth(losses))
    settled = smoothed[UNSETTLED:]
    lowest = int(settled.argmin()) if len(settled) else 0
    if not lowest or settled[0] - settled[lowest] <= np.std(losses[:UNSETTLED]):
        first, last = (losses[0], losses[-1]) if losses else (math.nan, math.nan)
        raise UserError(
            f"The loss falls at no learning rate by more than it varies by anyway: in {len(losses)} steps, it goes "
            f"from {first:.3g} to {last:.3g}; give a smaller --min_lr if it rises, else a larger --max_lr or more "
            "--steps, and look at the data with scripts/preview.py."
        )
    steepest = int(np.gradient(smoothed)[UNSETTLED:][: lowest + 1].argmin())
    return lrs[UNSETTLED + steepest], lrs[UNSETTLED + lowest] / 10
