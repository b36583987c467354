"""Measure the speed of training against what the hardware could do.

    python scripts/benchmark.py [--config FILE ...] [--seconds 20] [--steps 20] [any flag of scripts/train.py]
    python scripts/benchmark.py --callbacks [--config FILE ...] [any flag of scripts/train.py]

The first form trains each configuration as scripts/train.py does, with all callbacks, loggers and metrics. It times
each epoch of --steps steps right before as many bare steps (forward, loss, backward, update on a batch that is on the
device already), so that both see the machine in the same state, and shows how long training waited for data.

The second form trains and tests each configuration once, and shows the time that each callback took.
"""

from core.user_error import UserError  # isort: skip - first, for a Ctrl-C during the other imports

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from scripts.command.boundary import CommandParser
from scripts.command.process import training_process
from scripts.report.table import Table, show

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from models.classifier import Classifier

STEPS = ["training step", "batch", "bare\nms", "program\nms", "ratio", "added\nms", "images/s", "waiting\nfor data"]
CALLBACKS = ["callback", "seconds", "of training", "calls"]


WARMUP_STEPS = 5  # bare steps before each measurement, in which caches and allocators settle
FEWEST_EPOCHS = 3  # epochs that are measured at least, for a median


class TimedTraining:
    """Trains one configuration, and times the steps of each epoch and as many bare steps right after it.

    A step of training is everything from the end of one batch to the end of the next. A bare step has the same network,
    optimizer, precision and memory format. The first epoch warms up and is not kept. Training stops with the first
    epoch that ends after `seconds`, when enough were measured.
    """

    def __init__(self, flags: Sequence[str], steps: int, seconds: float, folder: str) -> None:
        from lightning.pytorch.callbacks import LambdaCallback

        from scripts.training.train_cli import TrainCLI

        # Of each epoch: milliseconds of a bare step and of the program's, and the share of waiting for data.
        self.epochs: list[tuple[float, float, float]] = []
        self._end = time.perf_counter() + seconds
        self._first = 0.0, 0.0  # when an epoch's first batch has ended, and how long it had waited by then
        own = ["--runs", folder, "--early_stopping=null", "--data.drop_last=true", "--trainer.max_epochs=1000"]
        own += [f"--trainer.limit_train_batches={steps}", "--trainer.limit_val_batches=1"]
        self.cli = TrainCLI(["fit", *flags, *own], callbacks=[LambdaCallback(on_train_batch_end=self._time)])

    def cells(self) -> list[str]:
        """The medians, below `STEPS`."""
        bare, program, waiting = (median(values) for values in zip(*self.epochs, strict=True))
        ratio = median(bare_ms / program_ms for bare_ms, program_ms, _ in self.epochs)
        added = median(program_ms - bare_ms for bare_ms, program_ms, _ in self.epochs)
        batch, trainer = self.cli.datamodule.batch_size, self.cli.trainer
        return [
            f"{self.cli.experiment}\n{trainer.strategy.root_device}, {trainer.precision}",
            str(batch),
            *(f"{value:,.2f}" for value in (bare, program, ratio, added)),
            f"{1000 * batch / program:,.0f}",
            f"{waiting:.1%}",
        ]

    def _time(self, trainer: "Trainer", classifier: "Classifier", _: Any, __: Any, batch_idx: int) -> None:
        if not (steps := int(trainer.num_training_batches) - 1):
            raise UserError("An epoch has one step, which cannot be timed; give a smaller --data.batch_size.")
        if batch_idx not in (0, steps):
            return
        _synchronize(classifier.device)
        now, waited = time.perf_counter(), getattr(trainer.train_dataloader, "seconds_waited", 0.0)
        if batch_idx == 0:
            self._first = now, waited
        elif trainer.current_epoch:
            seconds, bare_ms = now - self._first[0], _time_bare_step(trainer, classifier)
            self.epochs.append((bare_ms, 1000 * seconds / steps, (waited - self._first[1]) / seconds))
            trainer.should_stop = time.perf_counter() > self._end and len(self.epochs) >= FEWEST_EPOCHS


def _time_bare_step(trainer: "Trainer", classifier: "Classifier") -> float:
    data: Any = getattr(trainer, "datamodule")  # noqa: B009 - the Trainer declares none
    device = classifier.device
    network = copy.deepcopy(classifier.network)
    if classifier.hparams["compile"]:
        network.compile(dynamic=False)
    optimizer = classifier.make_optimizer(classifier.parameter_groups(network))
    images = classifier.to_memory_format(torch.randn(data.batch_size, *data.image_shape, device=device))
    labels = torch.randint(classifier.num_classes, (data.batch_size,), device=device)
    if classifier.multi_label:
        labels = torch.eye(classifier.num_classes, device=device)[labels]

    def take(steps: int) -> None:
        for _ in range(steps):
            with trainer.precision_plugin.forward_context():
                loss = classifier.loss(network(images).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        _synchronize(device)

    take(WARMUP_STEPS)
    steps = int(trainer.num_training_batches)
    start = time.perf_counter()
    take(steps)
    return 1000 * (time.perf_counter() - start) / steps


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


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
                    rows = [TimedTraining(flags, options.steps, options.seconds, folder).cells()]
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
