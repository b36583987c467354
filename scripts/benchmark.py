"""Measure the speed of training against what the hardware could do.

    python scripts/benchmark.py [--config FILE ...] [--seconds 20] [--steps 20] [any flag of scripts/train.py]
    python scripts/benchmark.py --callbacks [--config FILE ...] [any flag of scripts/train.py]

The first form trains each configuration as scripts/train.py does, with all callbacks, loggers and metrics. It times
each epoch of --steps steps right after as many bare steps (forward, loss, backward, update on a batch that is on the
device already), so that both see the machine in the same state, and shows how long training waited for data.

The second form trains and tests each configuration once, and shows the time that each callback took.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from scripts.command.boundary import CommandParser
from scripts.command.process import training_process
from scripts.report.table import Table, show

if TYPE_CHECKING:
    from callbacks.diagnostics.step_benchmark import StepBenchmark
    from scripts.training.train_cli import TrainCLI

STEPS = ["training step", "batch", "bare\nms", "program\nms", "ratio", "added\nms", "images/s", "waiting\nfor data"]
CALLBACKS = ["callback", "seconds", "of training", "calls"]


def train_timed(flags: Sequence[str], steps: int, seconds: float, folder: str) -> "tuple[TrainCLI, StepBenchmark]":
    """Train one configuration in this process, with a clock around its steps."""
    from callbacks.diagnostics.step_benchmark import StepBenchmark
    from scripts.training.train_cli import TrainCLI

    clock = StepBenchmark(seconds)
    own = ["--runs", folder, "--early_stopping=null", "--data.drop_last=true", "--trainer.max_epochs=1000"]
    own += [f"--trainer.limit_train_batches={steps}", "--trainer.limit_val_batches=1"]
    return TrainCLI(["fit", *flags, *own], callbacks=[clock]), clock


def step_cells(cli: "TrainCLI", clock: "StepBenchmark") -> list[str]:
    """The medians of a training that was timed, below `STEPS`."""
    pairs = list(zip(clock.limit_ms, clock.program_ms, strict=True))
    batch, program = cli.datamodule.batch_size, median(clock.program_ms)
    ratio, added = median(bare / whole for bare, whole in pairs), median(whole - bare for bare, whole in pairs)
    return [
        f"{cli.experiment}\n{cli.trainer.strategy.root_device}, {cli.trainer.precision}",
        str(batch),
        *(f"{value:,.2f}" for value in (median(clock.limit_ms), program, ratio, added)),
        f"{1000 * batch / program:,.0f}",
        f"{median(clock.waiting):.1%}",
    ]


def callback_rows(flags: Sequence[str], folder: str) -> list[list[str]]:
    """Train and test one configuration in this process, with a clock around each hook of each callback."""
    from scripts.training.train_cli import TrainCLI

    own = ["--runs", folder, "--trainer.profiler=lightning.pytorch.profilers.SimpleProfiler"]
    own += [f"--trainer.profiler.dirpath={folder}", "--trainer.profiler.filename=hooks"]
    cli = TrainCLI(["fit", *flags, *own])
    profiler: Any = cli.trainer.profiler  # type: ignore[attr-defined]  # declared nowhere
    training = cli.record.results["seconds"]
    spent: dict[str, list[float]] = {f"{cli.experiment}, {cli.record.results['epochs']} epochs": [training]}
    for action, durations in profiler.recorded_durations.items():
        if callback := re.match(r"\[Callback\](\w+)", action):
            spent.setdefault(callback[1], []).extend(durations)
    ordered = sorted(spent.items(), key=lambda item: -sum(item[1]))
    return [[name, f"{sum(each):.3f}", f"{sum(each) / training:.2%}", f"{len(each):,}"] for name, each in ordered]


def run_alone(command: Sequence[str]) -> Any:
    """Run a command with `--into FILE` in a process of its own, print nothing of it, and return what the file holds."""
    with tempfile.NamedTemporaryFile() as file:
        # The bar is drawn as on a terminal: it is part of what a user's run costs.
        environment = os.environ | {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}
        arguments = [sys.executable, *command, "--into", file.name]
        status = subprocess.run(arguments, stdout=subprocess.DEVNULL, env=environment, check=False).returncode
        if status:
            sys.exit(status if status > 0 else f"error: Signal {-status} ended the process that measures; try again.")
        return json.loads(Path(file.name).read_text())


def configurations(files: Sequence[str] | None) -> list[list[str]]:
    """The flags of each configuration: those that are named, or the default one and an MLP on the digits."""
    return [["--config", file] for file in files] if files else [[], ["--config", "configs/digits/mlp.yaml"]]


def main(args: list[str] | None = None) -> None:
    """Measure what the arguments ask for and print the tables."""
    parser = CommandParser(prog="scripts/benchmark.py", description=__doc__)
    parser.add_argument("-c", "--config", action="append", help="a file in configs/; may be given several times")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each configuration's steps, roughly")
    parser.add_argument("--steps", type=int, default=20, help="training batches per epoch, at most")
    parser.add_argument("--callbacks", action="store_true", help="time each callback in a whole training")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    with training_process():
        options, flags = parser.parse_known_args(args)
        if options.into:
            flags = [*(f"--config={file}" for file in options.config or ()), *flags]
            with tempfile.TemporaryDirectory() as folder:
                if options.callbacks:
                    rows = callback_rows(flags, folder)
                else:
                    rows = [step_cells(*train_timed(flags, options.steps, options.seconds, folder))]
            options.into.write_text(json.dumps(rows))
            return
        own = [f"--seconds={options.seconds}", f"--steps={options.steps}", *(["--callbacks"] * options.callbacks)]
        rows, breaks = [], set[int]()
        for config in configurations(options.config):
            breaks.add(len(rows))
            rows += run_alone([__file__, *own, *config, *flags])
        show(Table(CALLBACKS if options.callbacks else STEPS, rows, frozenset(breaks - {0})))


if __name__ == "__main__":
    main()
