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

Row = dict[str, Any]


def train_timed(flags: Sequence[str], steps: int, seconds: float, folder: str) -> "tuple[TrainCLI, StepBenchmark]":
    """Train one configuration in this process, with a clock around its steps."""
    from callbacks.diagnostics.step_benchmark import StepBenchmark
    from scripts.training.train_cli import TrainCLI

    clock = StepBenchmark(seconds)
    own = ["--runs", folder, "--early_stopping=null", "--data.drop_last=true", "--trainer.max_epochs=1000"]
    own += [f"--trainer.limit_train_batches={steps}", "--trainer.limit_val_batches=1"]
    return TrainCLI(["fit", *flags, *own], callbacks=[clock]), clock


def described(cli: "TrainCLI", clock: "StepBenchmark") -> Row:
    """The medians of a training that was timed."""
    pairs = list(zip(clock.limit_ms, clock.program_ms, strict=True))
    return {
        "experiment": cli.experiment,
        "device": f"{cli.trainer.strategy.root_device}, {cli.trainer.precision}",
        "batch": cli.datamodule.batch_size,
        "limit_ms": median(clock.limit_ms),
        "program_ms": median(clock.program_ms),
        "ratio": median(bare / whole for bare, whole in pairs),
        "added_ms": median(whole - bare for bare, whole in pairs),
        "waiting": median(clock.waiting),
    }


def measure(flags: Sequence[str], steps: int, seconds: float) -> Row:
    """Measure the steps of one configuration in this process."""
    with tempfile.TemporaryDirectory() as folder:
        return described(*train_timed(flags, steps, seconds, folder))


def measure_callbacks(flags: Sequence[str]) -> Row:
    """Train and test one configuration in this process, with a clock around each hook of each callback."""
    from lightning.pytorch.profilers import SimpleProfiler

    from scripts.training.train_cli import TrainCLI

    with tempfile.TemporaryDirectory() as folder:
        clock = f"--trainer.profiler={SimpleProfiler.__module__}.{SimpleProfiler.__qualname__}"
        report = (f"--trainer.profiler.dirpath={folder}", "--trainer.profiler.filename=hooks")
        cli = TrainCLI(["fit", *flags, "--runs", folder, clock, *report])
        profiler: Any = cli.trainer.profiler  # type: ignore[attr-defined]  # declared nowhere
        spent: dict[str, list[float]] = {}
        for action, durations in profiler.recorded_durations.items():
            if callback := re.match(r"\[Callback\](\w+)", action):
                spent.setdefault(callback[1], []).extend(durations)
    results = cli.record.results
    rows = [
        [name, f"{sum(durations):.3f}", f"{sum(durations) / results['seconds']:.2%}", f"{len(durations):,}"]
        for name, durations in sorted(spent.items(), key=lambda item: -sum(item[1]))
    ]
    what = f"{cli.experiment}\n{results['seconds']:,.1f} s of training, {results['epochs']} epochs"
    return {"heading": [what, "seconds", "of training", "calls"], "rows": rows}


def run_alone(command: Sequence[str]) -> Row:
    """Run a command with `--into FILE` in a process of its own, print nothing of it, and give the row in the file."""
    from datamodules.loading.loader import way_of_death

    with tempfile.NamedTemporaryFile() as file:
        # The bar is drawn as on a terminal: it is part of what a user's run costs.
        environment = os.environ | {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}
        arguments = [sys.executable, *command, "--into", file.name]
        done = subprocess.run(arguments, stdout=subprocess.DEVNULL, env=environment, check=False)
        if done.returncode < 0:
            sys.exit(
                f"error: The process that measures {way_of_death(done.returncode)}; use a smaller --data.batch_size."
            )
        if done.returncode:
            sys.exit(done.returncode)
        row: Row = json.loads(Path(file.name).read_text())
        return row


def configurations(files: Sequence[str] | None) -> list[list[str]]:
    """The flags of each configuration: those that are named, or the default one and an MLP on the digits."""
    return [["--config", file] for file in files] if files else [[], ["--config", "configs/digits/mlp.yaml"]]


STEPS = "training step", "batch", "bare\nms", "program\nms", "ratio", "added\nms", "images/s", "waiting\nfor data"


def step_cells(row: Row) -> list[str]:
    """The cells of a configuration, below `STEPS`."""
    return [
        f"{row['experiment']}\n{row['device']}",
        str(row["batch"]),
        *(f"{row[name]:,.2f}" for name in ("limit_ms", "program_ms", "ratio", "added_ms")),
        f"{1000 * row['batch'] / row['program_ms']:,.0f}",
        f"{row['waiting']:.1%}",
    ]


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
            row = measure_callbacks(flags) if options.callbacks else measure(flags, options.steps, options.seconds)
            options.into.write_text(json.dumps(row))
        else:
            own = [f"--seconds={options.seconds}", f"--steps={options.steps}", *(["--callbacks"] * options.callbacks)]
            rows = [run_alone([__file__, *own, *config, *flags]) for config in configurations(options.config)]
            if options.callbacks:
                for row in rows:
                    show(Table(**row))
            else:
                show(Table([*STEPS], [step_cells(row) for row in rows], frozenset(range(1, len(rows)))))


if __name__ == "__main__":
    main()
