"""Measure the speed of training against what the hardware could do.

    python scripts/benchmark.py [--config FILE ...] [--seconds 20] [--steps 20] [any flag of scripts/train.py]
    python scripts/benchmark.py --callbacks [--config FILE ...] [any flag of scripts/train.py]

The first form trains each configuration as scripts/train.py does, with all callbacks, loggers and metrics. After each
epoch of --steps steps, it times as many bare steps (forward, loss, backward and update on one batch on the device), so
that both see the machine in the same state. It also shows how long training waited for data.

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
FEWEST_EPOCHS = 3  # number of epochs that are measured at least, for a median


class TimedTraining:
    """Trains one configuration, and times the steps of each epoch and, right after it, as many bare steps.

    A training step lasts from the end of one batch to the end of the next. A bare step has the same network, optimizer,
    precision and memory format. The first epoch warms up and is not recorded. Training stops after the first epoch that
    ends later than `seconds`, but not before `FEWEST_EPOCHS` are recorded.
    """

    def __init__(self, flags: Sequence[str], steps: int, seconds: float, folder: str) -> None:
        from lightning.pytorch.callbacks import LambdaCallback

        from scripts.training.train_cli import TrainCLI

        # For each epoch: milliseconds of a bare step and of a training step, and the fraction of time waiting for data.
        self.epochs: list[tuple[float, float, float]] = []
        self._end = time.perf_counter() + seconds
        # Time at the end of an epoch's first batch, and the seconds that training had waited for data until then.
        self._epoch_start = 0.0, 0.0
        added = ["--runs", folder, "--early_stopping=null", "--data.drop_last=true", "--trainer.max_epochs=1000"]
        added += [f"--trainer.limit_train_batches={steps}", "--trainer.limit_val_batches=1"]
        self.cli = TrainCLI(["fit", *flags, *added], callbacks=[LambdaCallback(on_train_batch_end=self._time)])

    def cells(self) -> list[str]:
        """Return the medians over epochs, for the columns `STEPS`."""
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
        steps = int(trainer.num_training_batches) - 1
        if not steps:
            raise UserError("An epoch has one step, which cannot be timed; give a smaller --data.batch_size.")
        if batch_idx not in (0, steps):
            return
        _synchronize(classifier.device)
        end, waited = time.perf_counter(), getattr(trainer.train_dataloader, "seconds_waited", 0.0)
        if batch_idx == 0:
            self._epoch_start = end, waited
        elif trainer.current_epoch:
            start, waited_before = self._epoch_start
            bare_ms = _time_bare_step(trainer, classifier)
            self.epochs.append((bare_ms, 1000 * (end - start) / steps, (waited - waited_before) / (end - start)))
            trainer.should_stop = time.perf_counter() > self._end and len(self.epochs) >= FEWEST_EPOCHS


def _time_bare_step(trainer: "Trainer", classifier: "Classifier") -> float:
    """Return the mean milliseconds of a bare step, over as many steps as an epoch has."""
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

    def train(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            with trainer.precision_plugin.forward_context():
                loss = classifier.loss(network(images).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        _synchronize(device)
        return 1000 * (time.perf_counter() - start) / steps

    train(WARMUP_STEPS)
    return train(int(trainer.num_training_batches))


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def callback_rows(flags: Sequence[str], folder: str) -> list[list[str]]:
    """Train and test one configuration in this process, and return the time of each callback, for `CALLBACKS`."""
    from scripts.training.train_cli import TrainCLI

    added = ["--runs", folder, "--trainer.profiler=lightning.pytorch.profilers.SimpleProfiler"]
    added += [f"--trainer.profiler.dirpath={folder}", "--trainer.profiler.filename=hooks"]
    cli = TrainCLI(["fit", *flags, *added])
    profiler: Any = cli.trainer.profiler  # type: ignore[attr-defined]  # the Trainer declares none
    training = cli.record.results["seconds"]
    seconds: dict[str, list[float]] = {f"{cli.experiment}, {cli.record.results['epochs']} epochs": [training]}
    for action, durations in profiler.recorded_durations.items():
        if callback := re.match(r"\[Callback\](\w+)", action):
            seconds.setdefault(callback[1], []).extend(durations)
    rows = [(name, sum(calls), len(calls)) for name, calls in seconds.items()]
    rows.sort(key=lambda row: -row[1])
    return [[name, f"{total:.3f}", f"{total / training:.2%}", f"{calls:,}"] for name, total, calls in rows]


def run_alone(command: Sequence[str]) -> Any:
    """Run a command with `--into FILE` in a process of its own, without its output, and return the JSON in the file."""
    with tempfile.NamedTemporaryFile() as file:
        # The progress bar is drawn as in a terminal, because it is part of what a user's run costs.
        environment = os.environ | {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}
        arguments = [sys.executable, *command, "--into", file.name]
        status = subprocess.run(arguments, stdout=subprocess.DEVNULL, env=environment, check=False).returncode
        if status:
            sys.exit(status if status > 0 else f"error: Signal {-status} ended the process that measures; try again.")
        return json.loads(Path(file.name).read_text())


def configurations(files: Sequence[str] | None) -> list[list[str]]:
    """Return the flags of each configuration; without `files`, the default configuration and an MLP on the digits."""
    return [["--config", file] for file in files] if files else [[], ["--config", "configs/digits/mlp.yaml"]]


def main(args: list[str] | None = None) -> None:
    """Run the command line; a user error ends in one message and exit status 2."""
    parser = CommandParser(prog="scripts/benchmark.py", description=__doc__)
    parser.add_argument("-c", "--config", action="append", help="a file in configs/; may be given several times")
    parser.add_argument("--seconds", type=float, default=20.0, help="approximate time per configuration; by default 20")
    parser.add_argument("--steps", type=int, default=20, help="training batches per epoch, at most; by default 20")
    parser.add_argument("--callbacks", action="store_true", help="time each callback in a whole run")
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
        command = [__file__, f"--seconds={options.seconds}", f"--steps={options.steps}"]
        if options.callbacks:
            command.append("--callbacks")
        rows, breaks = [], []
        for config in configurations(options.config):
            breaks.append(len(rows))
            rows += run_alone([*command, *config, *flags])
        show(Table(CALLBACKS if options.callbacks else STEPS, rows, frozenset(breaks)))


if __name__ == "__main__":
    main()
