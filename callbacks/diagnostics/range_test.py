"""The learning-rate range test."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from core.user_error import UserError

SMOOTHING = 0.8  # by this the weight of a loss falls from step to step: the mean is over some five to each side

# The test ends if the running mean of the loss exceeds its lowest value as many times; fastai's rule and Lightning's.
DIVERGED = 4.0

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

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 10.0,
        steps: int = 200,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        if not 0 < min_lr < max_lr < math.inf:
            raise UserError(
                f"--min_lr is {min_lr:g} and --max_lr {max_lr:g}; give positive numbers, the second larger."
            )
        if steps < FEWEST_STEPS:
            raise UserError(f"--steps is {steps}; give a whole number of at least {FEWEST_STEPS}.")
        self.range = [float(lr) for lr in np.geomspace(min_lr, max_lr, steps)]  # the rates to test
        self.losses: list[float] = []  # of each step done; the last may not be finite
        self.diverged = False  # True if the loss has ended the test
        self._advance = advance
        self._parts: list[float] = []
        self._batches: list[float] = []
        self._sum, self._lowest = 0.0, math.inf

    @property
    def lrs(self) -> list[float]:
        """The learning rate of each step done."""
        return self.range[: len(self.losses)]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rates = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]
        self._parts = [rate / max(rates) if max(rates) else 1.0 for rate in rates]

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for group, part in zip(trainer.optimizers[0].param_groups, self._parts, strict=True):
            group["lr"] = part * self.range[len(self.losses)]

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches.append(float(trainer.strategy.reduce(outputs["loss"])))  # its part of the step's
        if trainer.global_step == len(self.losses):
            return
        self.losses.append(sum(self._batches))
        self._batches.clear()
        self._advance()
        self._sum = SMOOTHING * self._sum + self.losses[-1]
        mean = self._sum * (1 - SMOOTHING) / (1 - SMOOTHING ** len(self.losses))
        self._lowest = min(self._lowest, mean)
        self.diverged = not math.isfinite(mean) or mean > DIVERGED * self._lowest
        trainer.should_stop = self.diverged or len(self.losses) == len(self.range)


class Suggestion(NamedTuple):
    """Learning rates that a range test suggests, each by a rule."""

    steepest: float  # where the smoothed loss falls fastest for each factor that the rate grows by
    minimum_tenth: float  # a tenth of the rate at which the smoothed loss is lowest


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


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """Read a range test."""
    if not losses or not math.isfinite(losses[0]):
        raise UserError(
            f"The loss of the first step is {losses[0] if losses else 'missing'}, before anything was learnt; look at "
            "the data with scripts/audit.py and scripts/preview.py."
        )
    smoothed = np.array(smooth(losses))
    if len(smoothed) > UNSETTLED:
        noise = float(np.std(losses[:UNSETTLED]))
        lowest = UNSETTLED + int(smoothed[UNSETTLED:].argmin())
        if smoothed[UNSETTLED] - smoothed[lowest] > noise:
            steepest = UNSETTLED + int(np.gradient(smoothed)[UNSETTLED : lowest + 1].argmin())
            return Suggestion(lrs[steepest], lrs[lowest] / 10)
        if smoothed.argmin() > UNSETTLED or smoothed[-1] <= smoothed[0] + noise:
            raise UserError(
                f"The loss falls at no learning rate from {lrs[0]:.2g} to {lrs[len(losses) - 1]:.2g} by more than the "
                f"{noise:.2g} that it varies by anyway; give more --steps, or another --min_lr or --max_lr."
            )
    raise UserError(
        f"The loss diverges at once: from {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} steps from a learning "
        f"rate of {lrs[0]:.2g} on; give a smaller --min_lr."
    )
