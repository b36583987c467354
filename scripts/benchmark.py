"""Speed of the whole program: of a training step, and of what data go through before.

    python scripts/benchmark.py [--config FILE ...] [--seconds 20] [--steps 20] [any flag of scripts/train.py]
    python scripts/benchmark.py --callbacks [--config FILE ...] [any flag of scripts/train.py]
    python scripts/benchmark.py --predict CHECKPOINT --images PATH [--seconds 20]

Each configuration is trained by scripts/train.py as a user would, with all default callbacks, loggers and metrics. An
epoch of --steps steps is timed right after as many bare steps (forward, loss, backward, update on a batch that is on
the device already), so that both see the machine in the same state; then the program that is commonly written for the
task (`training/standard_program.py`) is timed in the same process, with no workers and with one per core, and the
faster one is shown. Of image files it is measured how fast they are packed, and how fast Pillow alone decodes them.

With --callbacks, each configuration is trained and tested once as it would be without, and the time spent in each
callback is shown beside that of the training.
The second form times scripts/predict.py on photographs, from the start of its workers to the last row of a CSV file,
against the network alone on as many images that are on the device already.
"""

import argparse
import copy
import itertools
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
from typing import Any

import numpy as np
import torch
from lightning.pytorch.profilers import SimpleProfiler
from PIL import Image
from rich import get_console
from rich.console import Console
from rich.table import Table
from torchvision import transforms

from callbacks.diagnostics.step_benchmark import StepBenchmark
from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.decoding.image_file import FORMATS
from datamodules.decoding.image_files import ImageFiles
from datamodules.loading.cores import available_cores
from datamodules.loading.loader import way_of_death
from scripts.command.boundary import mistakes_in_one_sentence
from scripts.command.expansion import to_path
from scripts.command.process import training_process
from scripts.inference.file_predictions import FilePredictions
from scripts.inference.image_classifier import ImageClassifier, load_classifier
from scripts.inference.input_images import input_images
from scripts.inference.prediction_table import PredictionTable
from scripts.training.standard_program import time_standard_program
from scripts.training.train_cli import TrainCLI

TABLE_WIDTH = 110  # columns of text that a table needs

PILLOW_IMAGES = 3000  # images that Pillow decodes to be compared with

# Arguments that a transform of torchvision shares with the augmentation of the same name.
COUNTERPARTS = {
    "RandomAffine": ("degrees", "translate", "scale", "shear"),
    "RandomRotation": ("degrees",),
    "RandomCrop": ("size", "padding", "padding_mode"),
    "RandomResizedCrop": ("size", "scale", "ratio"),
    "RandomHorizontalFlip": ("p",),
    "RandomVerticalFlip": ("p",),
    "ColorJitter": ("brightness", "contrast", "saturation", "hue"),
    "RandomGrayscale": ("p",),
}


def measure(flags: list[str], steps: int, seconds: float, standard: bool) -> dict[str, Any]:
    """Train one configuration in this process."""
    clock = StepBenchmark(seconds)
    with tempfile.TemporaryDirectory() as folder:
        quick = [f"--trainer.limit_train_batches={steps}", "--trainer.limit_val_batches=1"]
        own = ["--runs", folder, "--early_stopping=null", "--data.drop_last=true", "--trainer.max_epochs=1000", *quick]
        cli = TrainCLI(["fit", *flags, *own], callbacks=[clock])
        data, model, trainer = cli.datamodule, cli.model, cli.trainer
        row: dict[str, Any] = {
            "experiment": cli.experiment,
            "device": f"{trainer.strategy.root_device}, {trainer.precision}",
            "batch": data.batch_size,
            "limit_ms": median(clock.limit_ms),
            "program_ms": median(clock.program_ms),
            "ratio": median(bare / whole for bare, whole in zip(clock.limit_ms, clock.program_ms, strict=True)),
            "added_ms": median(whole - bare for bare, whole in zip(clock.limit_ms, clock.program_ms, strict=True)),
            "waiting": median(clock.waiting),
        }
        if standard:
            augmentation = counterparts(cli.config.fit.data.get("init_args.augmentation") or [], data.image_shape[1:])
            epochs = len(clock.program_ms) if row["program_ms"] < 100 else 1
            row["standard_ms"] = min(
                median(
                    time_standard_program(
                        data,
                        copy.deepcopy(model.network),
                        model.make_optimizer,
                        augmentation=augmentation,
                        folder=folder,
                        precision=trainer.precision,
                        steps=min(steps, int(trainer.num_training_batches)),
                        epochs=epochs,
                        num_workers=workers,
                    )
                )
                for workers in (0, available_cores())
            )
        row["data"] = measure_data(data, Path(folder))
    return row


def measure_callbacks(flags: list[str]) -> dict[str, Any]:
    """Train and test one configuration in this process, with a clock around each hook of each callback."""
    with tempfile.TemporaryDirectory() as folder:
        clock = f"--trainer.profiler={SimpleProfiler.__module__}.{SimpleProfiler.__qualname__}"
        report = (f"--trainer.profiler.dirpath={folder}", "--trainer.profiler.filename=hooks")
        cli = TrainCLI(["fit", *flags, "--runs", folder, clock, *report])
        profiler: Any = cli.trainer.profiler  # type: ignore[attr-defined]  # declared nowhere
        spent: dict[str, list[float]] = {}
        for action, durations in profiler.recorded_durations.items():
            if found := re.match(r"\[Callback\](\w+)", action):
                spent.setdefault(found[1], []).extend(durations)
        return {
            "experiment": cli.experiment,
            "device": f"{cli.trainer.strategy.root_device}, {cli.trainer.precision}",
            "epochs": cli.record.results["epochs"],
            "seconds": cli.record.results["seconds"],
            "callbacks": {name: (sum(durations), len(durations)) for name, durations in spent.items()},
        }


def measure_prediction(checkpoint: Path, images: Path, seconds: float) -> dict[str, Any]:
    """Predict a folder of photographs again and again, with the network alone before and after each time."""
    classifier, paths = load_classifier(checkpoint), input_images([str(images)])
    predictions = FilePredictions(classifier, paths, PredictionTable(classifier.class_names))
    _time_network(classifier, min(len(paths), 4 * classifier.batch_size))
    program: list[float] = []
    limit = [_time_network(classifier, len(paths))]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        while len(program) < 2 or time.perf_counter() - started < seconds:
            start = time.perf_counter()
            predictions.write_file(Path(folder, f"{len(program)}.csv"))
            program.append(time.perf_counter() - start)
            limit.append(_time_network(classifier, len(paths)))
    around = [(before + after) / 2 for before, after in itertools.pairwise(limit)]
    network, shape = type(classifier.trained.network).__name__, "x".join(map(str, classifier.shape))
    return {
        "network": f"{network}, {shape}\n{classifier.trained.device}, {classifier.trained.precision}",
        "images": len(paths),
        "batch": classifier.batch_size,
        "limit_rate": len(paths) / median(around),
        "program_rate": len(paths) / median(program),
        "ratio": median(bare / whole for bare, whole in zip(around, program, strict=True)),
    }


@torch.no_grad()
def _time_network(classifier: ImageClassifier, images: int) -> float:
    """Seconds that the network alone takes for so many images, in whole batches."""
    trained, size = classifier.trained, classifier.batch_size
    batch = trained.to_memory_format(torch.randn(size, *classifier.shape, device=trained.device))
    start = time.perf_counter()
    with trained.autocast_context():
        for _ in range(max(1, images // size)):
            trained.forward(batch).float().cpu()
    return (time.perf_counter() - start) * images / (max(1, images // size) * size)


def counterparts(augmentation: Sequence[Any], size: tuple[int, int]) -> list[Any]:
    """Make transforms of torchvision of the same names and values."""
    made = []
    for module in augmentation:
        name = module.class_path.rpartition(".")[2]
        if name not in COUNTERPARTS:
            raise UserError(
                f"The standard program has no {name}; leave the comparison out with --no-standard, or the augmentation "
                "with --data.augmentation '[]'."
            )
        arguments = {key: value for key in COUNTERPARTS[name] if (value := module.init_args.get(key)) is not None}
        if name == "RandomCrop":
            arguments.setdefault("size", size)
        made.append(getattr(transforms, name)(**arguments))
    return made


def measure_data(data: ImageDataModule, folder: Path) -> dict[str, Any]:
    """Measure the way of a data set's images to the first batch."""
    source = data.from_source(data.read)
    row: dict[str, Any] = {"images": sum(len(labels) for _, labels in source.values())}

    start = time.perf_counter()
    data = _as_new(data)
    data.prepare_data()
    data.setup("validate")
    next(iter(data.train_dataloader()))
    row["start_seconds"] = time.perf_counter() - start

    before = _own_memory()
    for _ in data.train_dataloader():
        pass
    row["grown_mb"] = (_own_memory() - before) / 1e6
    row["pack_mb"] = data.pack.images.numel() / 1e6 if data.pack is not None and data.pack.images is not None else 0.0

    images, _ = source["train"]
    if isinstance(images, ImageFiles):
        some = np.random.default_rng(0).permutation(len(images))[:PILLOW_IMAGES]
        start = time.perf_counter()
        for index in some:
            with Image.open(images.path(index), formats=FORMATS) as file:
                np.asarray(file.convert("RGB"))
        row["pillow_rate"] = len(some) / (time.perf_counter() - start)
        data = _as_new(data)
        data.packs, data.storage = folder / "packs", "packed"
        start = time.perf_counter()
        data.prepare_data()
        row["packing_rate"] = row["images"] / (time.perf_counter() - start)
    return row


def _as_new(data: ImageDataModule) -> ImageDataModule:
    """The same data module before it has looked for anything."""
    new = copy.copy(data)
    new.pack = None
    vars(new).pop("pack_folder", None)
    return new


def _own_memory() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def run_alone(arguments: list[str]) -> dict[str, Any]:
    """Measure in a process of its own, which writes what a user would see to nowhere."""
    with tempfile.NamedTemporaryFile() as file:
        # The bar is drawn as on a terminal: it is part of what a user's run costs.
        environment = os.environ | {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}
        command = [sys.executable, __file__, "--into", file.name, *arguments]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False)
        if done.returncode < 0:
            sys.exit(
                f"error: The process that measures {way_of_death(done.returncode)}; use a smaller --data.batch_size."
            )
        if done.returncode:
            sys.exit(done.returncode)
        row: dict[str, Any] = json.loads(Path(file.name).read_text())
        return row


def print_steps(rows: list[dict[str, Any]]) -> None:
    """The table of training steps."""
    table = Table("training step", "batch", show_lines=True)
    for heading in ("bare\nms", "program\nms", "ratio", "added\nms", "images/s", "waiting\nfor data", "standard\nms"):
        table.add_column(heading, justify="right")
    table.add_column("times\nfaster", justify="right")
    for row in rows:
        standard = row.get("standard_ms")
        table.add_row(
            f"{row['experiment']}\n{row['device']}",
            str(row["batch"]),
            *(f"{row[name]:,.2f}" for name in ("limit_ms", "program_ms", "ratio", "added_ms")),
            f"{1000 * row['batch'] / row['program_ms']:,.0f}",
            f"{row['waiting']:.1%}",
            f"{standard:,.2f}" if standard else "",
            f"{standard / row['program_ms']:.2f}" if standard else "",
        )
    _print_whole(table)


def print_callbacks(row: dict[str, Any]) -> None:
    """The table of a training's callbacks, the most expensive first."""
    table = Table(f"{row['experiment']}, {row['device']}: {row['seconds']:,.1f} s of training, {row['epochs']} epochs")
    for heading in ("seconds", "of training", "calls"):
        table.add_column(heading, justify="right")
    for name, (seconds, calls) in sorted(row["callbacks"].items(), key=lambda item: -item[1][0]):
        table.add_row(name, f"{seconds:.3f}", f"{seconds / row['seconds']:.2%}", f"{calls:,}")
    _print_whole(table)


def print_data(rows: list[dict[str, Any]]) -> None:
    """The table of data sets."""
    table = Table("data", show_lines=True)
    for heading in (
        *("images", "packing\nimages/s", "Pillow, one core\nimages/s", "times\nfaster"),
        *("to first batch\nwhen packed, s", "memory\ngrown, MB", "pack\nMB"),
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        packing, pillow = (row["data"].get(f"{name}_rate") for name in ("packing", "pillow"))
        table.add_row(
            row["experiment"],
            f"{row['data']['images']:,}",
            *(f"{rate:,.0f}" if rate else "" for rate in (packing, pillow)),
            f"{packing / pillow:.2f}" if packing else "",
            *(f"{row['data'][name]:,.2f}" for name in ("start_seconds", "grown_mb", "pack_mb")),
        )
    _print_whole(table)


def print_prediction(row: dict[str, Any]) -> None:
    """The table of a prediction."""
    table = Table("prediction", show_lines=True)
    for heading in ("images", "batch", "network alone\nimages/s", "program\nimages/s", "ratio"):
        table.add_column(heading, justify="right")
    rates = (f"{row['limit_rate']:,.1f}", f"{row['program_rate']:,.1f}")
    table.add_row(row["network"], f"{row['images']:,}", str(row["batch"]), *rates, f"{row['ratio']:.2f}")
    _print_whole(table)


def _print_whole(table: Table) -> None:
    Console(width=max(TABLE_WIDTH, get_console().width)).print(table)


def main(args: list[str] | None = None) -> None:
    """Measure each configuration and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-c", "--config", action="append", help="a file in configs/; may be given several times")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each configuration's steps, roughly")
    parser.add_argument("--steps", type=int, default=20, help="training batches per epoch, at most")
    parser.add_argument("--no-standard", action="store_true", help="leave the standard program out")
    parser.add_argument("--callbacks", action="store_true", help="what each callback costs in a whole training")
    parser.add_argument("--predict", type=to_path, metavar="CHECKPOINT", help="time scripts/predict.py with it instead")
    parser.add_argument("--images", type=to_path, metavar="PATH", help="on these photographs")
    parser.add_argument("--into", help=argparse.SUPPRESS)
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
    if options.predict or options.images:
        with training_process():
            if not (options.predict and options.images) or flags or options.config:
                raise UserError("A prediction is timed with --predict CHECKPOINT --images PATH; leave the rest out.")
            print_prediction(measure_prediction(options.predict, options.images, options.seconds))
        return
    settings = [f"--seconds={options.seconds}", f"--steps={options.steps}"] + ["--no-standard"] * options.no_standard
    settings += ["--callbacks"] * options.callbacks
    if options.into:
        config = ["--config", options.config[0]] if options.config else []
        with training_process():
            if options.callbacks:
                row = measure_callbacks([*config, *flags])
            else:
                row = measure([*config, *flags], options.steps, options.seconds, not options.no_standard)
        Path(options.into).write_text(json.dumps(row))
        return
    configs = [["--config", config] for config in options.config or ["configs/digits/mlp.yaml"]]
    rows = [run_alone([*settings, *config, *flags]) for config in (configs if options.config else [[], *configs])]
    if options.callbacks:
        for row in rows:
            print_callbacks(row)
        return
    print_steps(rows)
    print_data(rows)


if __name__ == "__main__":
    main()
