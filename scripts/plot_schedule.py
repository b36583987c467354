"""Draw the learning rate over a whole run, before it begins.

    python scripts/plot_schedule.py [--output FILE] [any flag of scripts/train.py fit]

Reads the data, to count the batches of an epoch, and steps the schedule as often as the run will; nothing is trained.
Early stopping may end the run earlier. The momentum is drawn too if the schedule changes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from core.user_error import UserError
from scripts.command.boundary import CommandParser
from scripts.command.output_file import picture_file, save_picture
from scripts.command.process import training_process

if TYPE_CHECKING:
    from callbacks.diagnostics.schedule_rehearsal import ScheduleRehearsal


def draw(schedule: "ScheduleRehearsal") -> Image.Image:
    """Draw the learning rate of each group of parameters over the steps of a run."""
    import numpy as np

    from scripts.report.figure import new_figure, picture_of

    figure, per_epoch = new_figure(), schedule.steps_per_epoch
    axes = figure.subplots()
    for number, curve in enumerate(dict.fromkeys(zip(*schedule.lrs, strict=True)), 1):
        axes.step(range(len(curve)), curve, where="post", label=f"learning rate {number}")
    axes.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None), title="Learning-rate schedule")
    axes.margins(x=0.02)
    axes.grid(alpha=0.3)
    epochs = axes.secondary_xaxis(
        "top", functions=(lambda step: np.asarray(step) / per_epoch, lambda epoch: np.asarray(epoch) * per_epoch)
    )
    epochs.set_xlabel("epoch")
    if len(set(schedule.momenta)) > 1:
        other = axes.twinx()
        other.step(range(len(schedule.momenta)), schedule.momenta, ":", where="post", color="grey", label="momentum")
        other.set_ylabel("momentum, or Adam's first beta")
    figure.legend(loc="outside lower center", ncols=4)
    return picture_of(figure)


def plot_schedule(flags: Sequence[str], output: Path) -> None:
    """Rehearse the schedule of a run, draw it and say in a sentence what it is."""
    from callbacks.diagnostics.schedule_rehearsal import ScheduleRehearsal
    from scripts.training.dry_run import DryRun

    schedule = ScheduleRehearsal()
    trial = DryRun(flags, schedule, {}, scheduled=True)
    if not schedule.lrs:
        raise UserError(
            "The run has no step to draw; give more --trainer.max_epochs, max_steps or limit_train_batches."
        )
    if trial.trainer.is_global_zero:
        save_picture(draw(schedule), output)
        largest = [max(lrs) for lrs in schedule.lrs]
        steps = len(largest)
        print(
            f"{steps:,} steps in {steps / schedule.steps_per_epoch:g} epochs, learning rate {largest[0]:.2g} to "
            f"{max(largest):.2g} in step {largest.index(max(largest)) + 1:,} and {largest[-1]:.2g} in the last"
        )
        print(output)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/plot_schedule.py", description=__doc__)
    parser.add_argument("--output", type=picture_file, default="runs/schedule.png", help="runs/schedule.png if absent")
    with training_process():
        options, flags = parser.parse_known_args(args)
        plot_schedule(flags, options.output)


if __name__ == "__main__":
    main()
