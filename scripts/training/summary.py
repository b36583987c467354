"""What a run prints at its end."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import get_console
from rich.table import Table

from callbacks.curves import EVENTS, TABLE

FEWEST_STEPS = 100  # of a run that says so; in fewer, the first batches of all take too large a part
MOST_WAITING = 0.05  # the share of training time spent waiting for data above which a run says so


def print_figures(figures: Mapping[str, Any]) -> None:
    """Print a table of metrics and facts."""
    table = Table(show_header=False)
    for name, value in sorted(figures.items()):
        table.add_row(name, f"{float(value):,.4f}" if "/" in name else f"{value:,}")
    get_console().print(table)


def print_results(results: Mapping[str, Any], first_step: int, *, may_wait: bool) -> None:
    """Print the results of a run that began at a step, why it stopped, and remedies if it waited but may not."""
    print_figures(results["metrics"] | {name: results[name] for name in ("epochs", "seconds", "images_per_second")})
    if (share := results["waiting_for_data"]) > MOST_WAITING and results["steps"] >= FEWEST_STEPS and not may_wait:
        print(
            f"{share:.0%} of training was waiting for data: give more --data.num_workers, a larger --data.batch_size, "
            "or for image files --data.storage packed"
        )
    by, epoch = results["stopped_by"], results["best_epoch"]
    best = "" if epoch is None else f"; {results['monitor']} was best in epoch {epoch} of 0 to {results['epochs'] - 1}"
    print(f"stopped by {by}{best}")
    if 0 < first_step == results["steps"]:
        print(f"the run was finished, nothing was left to train; to go on, resume it with a higher --{by.split()[0]}")


def print_places(best: str | None, runs: Path, run: Path) -> None:
    """Print where the checkpoint and the curves are."""
    show = f"{os.path.relpath(Path(sys.executable).with_name('tensorboard'))} --logdir {runs}"
    if not any(run.rglob(EVENTS)):
        show = next(map(os.path.relpath, run.glob(TABLE)), "none")
    print(f"checkpoint  {os.path.relpath(best) if best else 'none'}")
    print(f"curves      {show}")
