"""Draw the learning-rate schedule of a run before it starts.

    python scripts/plot_schedule.py [--output FILE] [any flag of scripts/train.py fit]

Reads the data to count the batches of an epoch, and steps the schedule as often as the run will, without training.
Early stopping may end the run earlier. The momentum is drawn too if the schedule changes it.
"""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from core.user_error import UserError
from scripts.command.boundary import CommandParser
from scripts.command.output_file import picture_file, save_picture
from scripts.command.process import training_process

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


class Rehearsal:
    """Steps the schedule of a run as often as the run will, without training."""

    def __init__(self, flags: Sequence[str]) -> None:
        from lightning.pytorch.callbacks import LambdaCallback

        from scripts.training.dry_run import DryRun

        self.lrs: list[list[float]] = []  # for each optimizer step, the learning rate of each parameter group
        self.momenta: list[float] = []  # for each step, the first group's momentum or Adam's first beta, else 0
        self.steps_per_epoch = 0  # optimizer steps; the last epoch may have fewer
        self.trainer = DryRun(flags, LambdaCallback(on_train_start=self._rehearse), {}, scheduled=True).trainer
        if not self.lrs:
            raise UserError(
                "The run has no step to draw; give more --trainer.max_epochs, max_steps or limit_train_batches."
            )

    def _rehearse(self, trainer: "Trainer", _: Any) -> None:
        trainer.should_stop = True
        (config,), (optimizer,) = trainer.lr_scheduler_configs, trainer.optimizers
        if config.reduce_on_plateau:
            raise UserError(
                f"{type(config.scheduler).__name__} lowers the learning rate when {config.monitor} gets no better, "
                "which nobody knows before the run; see lr in TensorBoard while it trains."
            )
        steps = trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError(
                "The run has no end that its schedule could be drawn to; give --trainer.max_epochs or max_steps."
            )
        self.steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)`")  # before an optimizer step
            for step in range(1, int(steps) + 1):
                self.lrs.append([float(group["lr"]) for group in optimizer.param_groups])
                group = optimizer.param_groups[0]
                self.momenta.append(float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0)))
                if step < steps and (config.interval == "step" or step % self.steps_per_epoch == 0):
                    config.scheduler.step()  # type: ignore[call-arg]  # only ReduceLROnPlateau takes a metric


def draw(lrs: Sequence[Sequence[float]], momenta: Sequence[float], steps_per_epoch: int) -> Image.Image:
    """Draw the learning rate of each parameter group, without duplicates, over the steps of a run."""
    import numpy as np

    from scripts.report.chart import new_figure, picture_of

    figure = new_figure()
    axes = figure.subplots()
    for number, curve in enumerate(dict.fromkeys(zip(*lrs, strict=True)), 1):
        axes.step(range(len(curve)), curve, where="post", label=f"learning rate {number}")
    axes.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None), title="Learning-rate schedule")
    axes.margins(x=0.02)
    axes.grid(alpha=0.3)
    to_epoch = (lambda step: np.asarray(step) / steps_per_epoch, lambda epoch: np.asarray(epoch) * steps_per_epoch)
    axes.secondary_xaxis("top", functions=to_epoch).set_xlabel("epoch")
    if len(set(momenta)) > 1:
        momentum_axes = axes.twinx()
        momentum_axes.step(range(len(momenta)), momenta, ":", where="post", color="grey", label="momentum")
        momentum_axes.set_ylabel("momentum, or Adam's first beta")
    figure.legend(loc="outside lower center", ncols=4)
    return picture_of(figure)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error ends in one message and exit status 2."""
    parser = CommandParser(prog="scripts/plot_schedule.py", description=__doc__)
    parser.add_argument("--output", type=picture_file, default="runs/schedule.png", help="by default runs/schedule.png")
    with training_process():
        options, flags = parser.parse_known_args(args)
        rehearsal = Rehearsal(flags)
        if not rehearsal.trainer.is_global_zero:
            return
        save_picture(draw(rehearsal.lrs, rehearsal.momenta, rehearsal.steps_per_epoch), options.output)
        lrs = [max(rates) for rates in rehearsal.lrs]
        print(
            f"{len(lrs):,} steps in {len(lrs) / rehearsal.steps_per_epoch:g} epochs, learning rate {lrs[0]:.2g} to "
            f"{max(lrs):.2g} in step {lrs.index(max(lrs)) + 1:,} and {lrs[-1]:.2g} in the last"
        )
        print(options.output)


if __name__ == "__main__":
    main()
