"""Learning-rate range test: suggest the learning rate of a training.

    python scripts/find_lr.py [--min_lr 1e-7] [--max_lr 10] [--steps 200] [--output FILE] [any flag of train.py fit]

Trains the network for a few steps, each with a higher learning rate than the one before, and draws the loss against it;
epochs are repeated if the data are fewer than the steps need. Suggested is the rate at which the smoothed loss falls
fastest. The picture is in TensorBoard, too, beside the experiment's runs. Nothing else is kept: a later training is
what it would have been.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from scripts.command.boundary import CommandParser
from scripts.command.output_file import picture_file, save_picture
from scripts.command.process import training_process

if TYPE_CHECKING:
    from callbacks.diagnostics.range_test import RangeTest


def draw(test: "RangeTest", steepest: float, minimum_tenth: float) -> Image.Image:
    """Draw the loss against the learning rate."""
    from callbacks.diagnostics.range_test import smooth
    from scripts.report.figure import new_figure, picture_of

    figure = new_figure()
    axes = figure.subplots()
    smoothed = smooth(test.losses)
    axes.plot(test.lrs[: len(smoothed)], smoothed, color="tab:blue", label="smoothed")
    axes.set_ylim(axes.get_ylim())  # a loss that diverges leaves the picture
    axes.plot(test.lrs[: len(test.losses)], test.losses, ".", color="tab:blue", alpha=0.3, label="loss of a step")
    axes.axvline(steepest, color="tab:red", label=f"{steepest:.2g}, steepest descent")
    axes.axvline(minimum_tenth, color="tab:red", linestyle=":", label=f"{minimum_tenth:.2g}, a tenth of the minimum's")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="Learning-rate range test")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return picture_of(figure)


def find_lr(flags: Sequence[str], min_lr: float, max_lr: float, steps: int, output: Path) -> None:
    """Run the test, draw it and print its suggestion."""
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    from callbacks.diagnostics.range_test import RangeTest, suggest
    from callbacks.run.run_folder import make_run_folder
    from datamodules.loading.progress import progress
    from scripts.training.dry_run import DryRun

    with progress("range test", steps) as advance:
        test = RangeTest(min_lr, max_lr, steps, advance)
        trial = DryRun(flags, test, {"max_epochs": -1, "max_steps": steps, "max_time": None}, scheduled=False)
    steepest, minimum_tenth = suggest(test.lrs, test.losses)
    if not trial.trainer.is_global_zero:
        return
    picture = draw(test, steepest, minimum_tenth)
    save_picture(picture, output)
    folder = make_run_folder(trial.runs / trial.experiment / "range-test")
    with SummaryWriter(str(folder)) as writer:
        writer.add_image("range_test", np.asarray(picture), dataformats="HWC")
    print(
        f"suggestion  {steepest:.2g} (steepest descent of the smoothed loss); a tenth of the minimum's: "
        f"{minimum_tenth:.2g}"
    )
    print(f"picture     {output}")
    print(f"TensorBoard {folder}")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/find_lr.py", description=__doc__)
    parser.add_argument("--min_lr", type=float, default=1e-7, help="learning rate of the first step; 1e-7 if absent")
    parser.add_argument("--max_lr", type=float, default=10.0, help="learning rate of the last step; 10 if absent")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps; 200 if absent")
    parser.add_argument("--output", type=picture_file, default="runs/lr.png", help="runs/lr.png if absent")
    with training_process():
        options, flags = parser.parse_known_args(args)
        find_lr(flags, options.min_lr, options.max_lr, options.steps, options.output)


if __name__ == "__main__":
    main()
