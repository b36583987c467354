"""A picture of the learning rate over a whole run, before it is begun.

    python scripts/plot_schedule.py [--output schedule.png] [any flag of scripts/train.py fit]

Reads the data, for the number of batches that an epoch has, and steps the schedule as often as the run will; nothing is
trained. Early stopping may end the run before. Where the schedule changes the momentum, that is drawn too.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from PIL import Image

from callbacks.diagnostics.schedule_rehearsal import ScheduleRehearsal
from core.user_error import UserError
from scripts.command.picture_file import picture_file, save_picture
from scripts.command.process import training_process
from scripts.report.figure import new_figure, picture_of
from scripts.training.dry_run import DryRun


def draw(schedule: ScheduleRehearsal) -> Image.Image:
    """Draw the learning rate of each group of parameters over the steps of a run."""
    figure = new_figure()
    axes = figure.subplots()
    curves = list(dict.fromkeys(zip(*schedule.lrs, strict=True)))
    for number, curve in enumerate(curves, 1):
        label = "learning rate" if len(curves) == 1 else f"learning rate {number}"
        axes.step(range(len(curve)), curve, where="post", label=label)
    axes.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None), title="Learning-rate schedule")
    axes.margins(x=0.02)
    axes.grid(alpha=0.3)
    per_epoch = schedule.steps_per_epoch
    epochs = axes.secondary_xaxis(
        "top", functions=(lambda step: np.asarray(step) / per_epoch, lambda epoch: np.asarray(epoch) * per_epoch)
    )
    epochs.set_xlabel("epoch")
    lines = axes.get_lines()
    if len(set(schedule.momenta)) > 1:
        other = axes.twinx()
        other.step(range(len(schedule.momenta)), schedule.momenta, ":", where="post", color="grey", label="momentum")
        other.set_ylabel("momentum, or Adam's first beta")
        lines = [*lines, *other.get_lines()]
    if len(lines) > 1:
        figure.legend(handles=lines, loc="outside lower center", ncols=4)
    return picture_of(figure)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--output", type=picture_file, default="schedule.png", help="the picture; schedule.png if absent"
    )
    with training_process():
        options, flags = parser.parse_known_args(args)
        schedule = ScheduleRehearsal()
        trial = DryRun(flags, schedule, {}, scheduled=True)
        if not schedule.lrs:
            raise UserError(
                "The run has no step to draw; give more --trainer.max_epochs, max_steps or limit_train_batches."
            )
        if trial.trainer.is_global_zero:
            save_picture(draw(schedule), options.output)
            largest = [max(lrs) for lrs in schedule.lrs]
            steps = len(largest)
            print(
                f"{steps:,} steps in {steps / schedule.steps_per_epoch:g} epochs, learning rate {largest[0]:.2g} to "
                f"{max(largest):.2g} in step {largest.index(max(largest)) + 1:,} and {largest[-1]:.2g} in the last"
            )
            print(options.output)


if __name__ == "__main__":
    main()
