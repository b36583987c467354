"""scripts/predict.py timed against the network alone, from the start of its workers to the last row of a CSV file.

python -m tests.benchmarks.prediction CHECKPOINT PATH [--seconds 20]
"""

import argparse
import itertools
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch

from models.training.test_time_augmentation import average_logits
from scripts.command.process import training_process
from scripts.inference.file_predictions import predict_files, write_predictions
from scripts.inference.input_images import input_images
from scripts.inference.prediction_table import PredictionTable
from scripts.inference.trained_network import TrainedNetwork
from scripts.report.table import Table, show


def time_prediction(checkpoint: Path, images: Path, seconds: float) -> None:
    """Predict a folder of photographs again and again, with the network alone before and after each time."""
    trained, paths = TrainedNetwork(checkpoint), input_images([str(images)])
    table = PredictionTable(trained.class_names)
    predict = partial(predict_files, trained, paths, table)
    _time_network(trained, min(len(paths), 4 * trained.batch_size))
    program: list[float] = []
    limit = [_time_network(trained, len(paths))]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        while len(program) < 2 or time.perf_counter() - started < seconds:
            start = time.perf_counter()
            write_predictions(
                Path(folder, f"{len(program)}.csv"), table.columns, {}, lambda begun: predict(first_batch=begun)
            )
            program.append(time.perf_counter() - start)
            limit.append(_time_network(trained, len(paths)))
    around = [(before + after) / 2 for before, after in itertools.pairwise(limit)]
    network, shape = type(trained.network).__name__, "x".join(map(str, trained.shape))
    rates = (len(paths) / median(around), len(paths) / median(program))
    ratio = median(bare / whole for bare, whole in zip(around, program, strict=True))
    what = f"{network}, {shape}\n{trained.device}, {trained.precision}"
    row = [what, f"{len(paths):,}", str(trained.batch_size), *(f"{rate:,.1f}" for rate in rates), f"{ratio:.2f}"]
    heading = ["prediction", "images", "batch", "network alone\nimages/s", "program\nimages/s", "ratio"]
    show(Table(heading, [row]))


def _time_network(trained: TrainedNetwork, images: int) -> float:
    """Seconds that the network alone takes for so many images, in whole batches."""
    size = trained.batch_size
    batch = trained.to_memory_format(torch.randn(size, *trained.shape, device=trained.device))
    start = time.perf_counter()
    with torch.no_grad(), trained.autocast_context():
        for _ in range(max(1, images // size)):
            average_logits(trained.network, batch, trained.test_time_augmentation).float().cpu()
    return (time.perf_counter() - start) * images / (max(1, images // size) * size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or the folder of a run")
    parser.add_argument("images", type=Path, help="photographs")
    parser.add_argument("--seconds", type=float, default=20.0, help="roughly how long it takes")
    options = parser.parse_args()
    with training_process():
        time_prediction(options.checkpoint, options.images, options.seconds)


if __name__ == "__main__":
    main()
