"""Learning-rate range test: suggest a learning rate for a run.

    python scripts/find_lr.py [--min_lr 1e-7] [--max_lr 10] [--steps 200] [--output FILE] [any flag of train.py fit]

Trains the network for a few steps at a learning rate that rises from step to step, and draws the loss against it. If an
epoch has fewer steps, it is repeated. The suggestion is the rate at which the smoothed loss falls fastest. The picture
is also in TensorBoard, beside the experiment's runs. Nothing else is kept, and later runs are not affected.
"""

from core.user_error import UserError  # isort: skip - first, for a Ctrl-C during the other imports

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.command.boundary import CommandParser
from scripts.command.output_file import picture_file, save_picture
from scripts.command.process import training_process

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import Callback

SMOOTHING = 0.8  # factor by which a loss's weight falls per step, so that a mean is over some five steps to each side
DIVERGED = 4.0  # the test ends when the running mean exceeds 4 times its lowest value, as in fastai and Lightning
CEILING = 1.5  # losses are clipped to 1.5 times the mean of the first ones, so that the last ones do not dominate
UNSETTLED = 10  # number of first steps, which only measure the noise of the loss; Lightning skips as many
FEWEST_STEPS = 3 * UNSETTLED  # enough for a curve after the first steps


class RangeTest:
    """Raises the learning rate in each step of a run and records the losses (Smith, 2017).

    The rate grows by a constant factor, so that every decade has equally many steps (Gugger, 2018). The largest rate of
    all parameter groups is the tested one; the others keep their proportion to it. Training stops when the running mean
    of the loss exceeds four times its lowest value, or a loss is not finite. A learning-rate schedule would be
    overwritten; train without one. The loss of a step is the mean over its accumulated batches and all ranks.
    """

    def __init__(self, min_lr: float, max_lr: float, steps: int, advance: Callable[[], None] = lambda: None) -> None:
        if not 0 < min_lr < max_lr < math.inf:
            raise UserError(
                f"--min_lr is {min_lr:g} and --max_lr {max_lr:g}; give positive numbers, the second larger."
            )
        if steps < FEWEST_STEPS:
            raise UserError(f"--steps is {steps}; give a whole number of at least {FEWEST_STEPS}.")
        self.lrs: list[float] = np.geomspace(min_lr, max_lr, steps).tolist()
        self.losses: list[float] = []  # of each finished step; the last may not be finite
        self._advance = advance  # called after each step
        self._proportions: list[float] = []  # of each group's learning rate to the largest
        self._loss = 0.0  # of the current step, so far
        self._mean, self._lowest = 0.0, math.inf

    def callback(self) -> "Callback":
        """Return the callback for the Trainer."""
        from lightning.pytorch.callbacks import LambdaCallback

        return LambdaCallback(on_train_batch_start=self._set_rates, on_train_batch_end=self._record_loss)

    def _set_rates(self, trainer: "Trainer", *_: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        if not self._proportions:
            largest = max(float(group["lr"]) for group in groups)
            self._proportions = [float(group["lr"]) / largest if largest else 1.0 for group in groups]
        for group, proportion in zip(groups, self._proportions, strict=True):
            group["lr"] = proportion * self.lrs[len(self.losses)]

    def _record_loss(self, trainer: "Trainer", _: Any, outputs: Any, *__: Any) -> None:
        self._loss += float(trainer.strategy.reduce(outputs["loss"]))  # already divided by the accumulated batches
        if trainer.global_step == len(self.losses):
            return
        self.losses.append(self._loss)
        self._advance()
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * self._loss
        self._loss = 0.0
        mean = self._mean / (1 - SMOOTHING ** len(self.losses))  # without the bias towards its start at 0
        self._lowest = min(self._lowest, mean)
        has_diverged = not math.isfinite(mean) or mean > DIVERGED * self._lowest
        trainer.should_stop = has_diverged or len(self.losses) == len(self.lrs)


def smooth(losses: Sequence[float]) -> NDArray[np.float64]:
    """Return the exponential mean of the finite losses to both sides, which shifts no minimum towards later steps.

    The weights also sum to 1 at the ends. Losses are clipped to `CEILING` times the mean of the first ones.
    """
    finite = np.array([loss for loss in losses if math.isfinite(loss)])
    if len(finite):
        finite = finite.clip(max=CEILING * finite[:UNSETTLED].mean())
    steps = np.arange(len(finite))
    weights = SMOOTHING ** np.abs(steps[:, None] - steps)
    return np.asarray(weights @ finite / weights.sum(axis=1))


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Return the rate at which the smoothed loss falls fastest, and a tenth of the rate at which it is lowest.

    Raises UserError if the loss never falls by more than its standard deviation over the first steps.
    """
    smoothed = smooth(losses)
    settled = smoothed[UNSETTLED:]
    lowest = int(settled.argmin()) if len(settled) else 0
    if not lowest or settled[0] - settled[lowest] <= np.std(losses[:UNSETTLED]):
        first, last = (losses[0], losses[-1]) if losses else (math.nan, math.nan)
        raise UserError(
            f"The loss falls at no learning rate by more than its noise: in {len(losses)} steps, it goes "
            f"from {first:.3g} to {last:.3g}; give a smaller --min_lr if it rises, else a larger --max_lr or more "
            "--steps, and look at the data with scripts/preview.py."
        )
    steepest = int(np.gradient(smoothed)[UNSETTLED:][: lowest + 1].argmin())
    return lrs[UNSETTLED + steepest], lrs[UNSETTLED + lowest] / 10


def draw(test: RangeTest, steepest: float, minimum_tenth: float) -> Image.Image:
    """Draw the loss against the learning rate."""
    from scripts.report.chart import new_figure, picture_of

    figure = new_figure()
    axes = figure.subplots()
    smoothed = smooth(test.losses)
    axes.plot(test.lrs[: len(smoothed)], smoothed, color="tab:blue", label="smoothed")
    axes.set_ylim(axes.get_ylim())  # a diverging loss may leave the picture
    axes.plot(test.lrs[: len(test.losses)], test.losses, ".", color="tab:blue", alpha=0.3, label="loss of a step")
    axes.axvline(steepest, color="tab:red", label=f"{steepest:.2g}, steepest descent")
    axes.axvline(minimum_tenth, color="tab:red", linestyle=":", label=f"{minimum_tenth:.2g}, a tenth of the minimum's")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="Learning-rate range test")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return picture_of(figure)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error ends in one message and exit status 2."""
    parser = CommandParser(prog="scripts/find_lr.py", description=__doc__)
    parser.add_argument("--min_lr", type=float, default=1e-7, help="learning rate of the first step; by default 1e-7")
    parser.add_argument("--max_lr", type=float, default=10.0, help="learning rate of the last step; by default 10")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps; by default 200")
    parser.add_argument("--output", type=picture_file, default="runs/lr.png", help="by default runs/lr.png")
    with training_process():
        options, flags = parser.parse_known_args(args)
        from torch.utils.tensorboard import SummaryWriter

        from callbacks.run.run_folder import make_run_folder
        from datamodules.loading.progress import progress
        from scripts.training.dry_run import DryRun

        with progress("range test", options.steps) as advance:
            test = RangeTest(options.min_lr, options.max_lr, options.steps, advance)
            length = {"max_epochs": -1, "max_steps": options.steps, "max_time": None}
            trial = DryRun(flags, test.callback(), length, scheduled=False)
        steepest, minimum_tenth = suggest(test.lrs, test.losses)
        if not trial.trainer.is_global_zero:
            return
        picture = draw(test, steepest, minimum_tenth)
        save_picture(picture, options.output)
        folder = make_run_folder(trial.runs / trial.experiment / "range-test")
        with SummaryWriter(str(folder)) as writer:
            writer.add_image("range_test", np.asarray(picture), dataformats="HWC")
        rule = "(steepest descent of the smoothed loss); a tenth of the minimum's:"
        print(f"suggestion  {steepest:.2g} {rule} {minimum_tenth:.2g}")
        print(f"picture     {options.output}")
        print(f"TensorBoard {folder}")


if __name__ == "__main__":
    main()
