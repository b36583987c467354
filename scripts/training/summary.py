"""What a run prints at its start and at its end."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import get_console
from rich.table import Table

from callbacks.curves import EVENTS, TABLE
from core.names import some_of
from datamodules.base import ImageDataModule
from models.classifier import Classifier

MAX_WAITING = 0.05  # fraction of the training time spent waiting for data, above which a run advises a remedy
MIN_STEPS = 100  # a shorter run gives no such advice, because its first batches take a large part of its time


def print_start(model: Classifier, data: ImageDataModule, device: str, precision: str) -> None:
    """Print the network and its size, the data set and its classes, the device and the precision."""
    size = sum(parameter.numel() for parameter in model.network.parameters())
    kind = f"labels by {type(model.loss).__name__}" if model.multi_label else "classes"
    print(
        f"{type(model.network).__name__} with {size:,} parameters on {type(data).__name__}, "
        f"{len(data.class_names)} {kind} ({some_of(data.class_names)}), {device}, {precision}"
    )


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Print a table of metrics, sorted by name."""
    table = Table(show_header=False)
    for name, value in sorted(metrics.items()):
        table.add_row(name, f"{float(value):,.4f}" if "/" in name else f"{value:,}")
    get_console().print(table)


def print_results(results: Mapping[str, Any], first_step: int, *, may_wait: bool) -> None:
    """Print the results of a run that was resumed after `first_step`, why it stopped, and a remedy for long waiting."""
    print_metrics(results["metrics"] | {name: results[name] for name in ("epochs", "seconds", "images_per_second")})
    waiting = results["waiting_for_data"]
    if waiting > MAX_WAITING and results["steps"] >= MIN_STEPS and not may_wait:
        print(
            f"{waiting:.0%} of training was waiting for data: give more --data.num_workers, a larger "
            "--data.batch_size, or for image files --data.storage packed"
        )
    reason, epoch = results["stopped_by"], results["best_epoch"]
    best = "" if epoch is None else f"; {results['monitor']} was best in epoch {epoch} of 0 to {results['epochs'] - 1}"
    print(f"stopped by {reason}{best}")
    if 0 < first_step == results["steps"]:
        print(f"the run was finished already; to train longer, resume it with a higher --{reason.split()[0]}")


def print_places(best: str | None, runs: Path, run: Path) -> None:
    """Print where the best checkpoint is, and how to see the curves."""
    curves = f"{os.path.relpath(Path(sys.executable).with_name('tensorboard'))} --logdir {runs}"
    if not any(run.rglob(EVENTS)):
        curves = next(map(os.path.relpath, run.glob(TABLE)), "none")
    print(f"checkpoint  {os.path.relpath(best) if best else 'none'}")
    print(f"curves      {curves}")
