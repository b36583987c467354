"""Draw the learning rate over a whole run, before it begins.

    python scripts/plot_schedule.py [--output FILE] [any flag of scripts/train.py fit]

Reads the data, to count the batches of an epoch, and steps the schedule as often as the run will; nothing is trained.
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
    """Steps the schedule of a run as often as the run will, and trains nothing."""

    def __init__(self, flags: Sequence[str]) -> None:
        from lightning.pytorch.callbacks import LambdaCallback

        from scripts.training.dry_run import DryRun

        # In each optimizer step: the learning rate of each group of parameters, and the momentum (or Adam's first beta)
        # of the first group, 0 where there is none.
        self.lrs: list[list[float]] = []
        self.momenta: list[float] = []
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
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)`")  # nothing is optimized
            for step in range(1, int(steps) + 1):
                first, *_ = groups = optimizer.param_groups
                self.lrs.append([float(group["lr"]) for group in groups])
                self.momenta.append(float(first["betas"][0] if "betas" in first else first.get("momentum", 0.0)))
                if step < steps and (config.interval == "step" or step % self.steps_per_epoch == 0):
                    config.scheduler.step()  # type: ignore[call-arg]  # a plateau's alone takes a figure


def draw(lrs: Sequence[Sequence[float]], momenta: Sequence[float], steps_per_epoch: int) -> Image.Image:
    """Draw the learning rate of each group of parameters over the steps of a run."""
    import numpy as np

    from scripts.report.chart import new_figure, picture_of

    figure = new_figure()
    axes = figure.subplots()
    for number, curve in enumerate(dict.fromkeys(zip(*lrs, strict=True)), 1):
        axes.step(range(len(curve)), curve, where="post", label=f"learning rate {number}")
    axes.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None), title="Learning-rate schedule")
    axes.margins(x=0.02)
    axes.grid(alpha=0.3)
    per_epoch = (lambda step: np.asarray(step) / steps_per_epoch, lambda epoch: np.asarray(epoch) * steps_per_epoch)
    axes.secondary_xaxis("top", functions=per_epoch).set_xlabel("epoch")
    if len(set(momenta)) > 1:
        other = axes.twinx()
        other.step(range(len(momenta)), momenta, ":", where="post", color="grey", label="momentum")
        other.set_ylabel("momentum, or Adam's first beta")
    figure.legend(loc="outside lower center", ncols=4)
    return picture_of(figure)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/plot_schedule.py", description=__doc__)
    parser.add_argument("--output", type=picture_file, default="runs/schedule.png", help="runs/schedule.png if absent")
    with training_process():
        options, flags = parser.parse_known_args(args)
        rehearsal = Rehearsal(flags)
        if rehearsal.trainer.is_global_zero:
            per_epoch, largest = rehearsal.steps_per_epoch, [max(lrs) for lrs in rehearsal.lrs]
            save_picture(draw(rehearsal.lrs, rehearsal.momenta, per_epoch), options.output)
            print(
                f"{len(largest):,} steps in {len(largest) / per_epoch:g} epochs, learning rate "
                f"{largest[0]:.2g} to {max(largest):.2g} in step {largest.index(max(largest)) + 1:,} and "
                f"{largest[-1]:.2g} in the last"
            )
            print(options.output)


if __name__ == "__main__":
    main()
