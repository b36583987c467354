"""The predictions of image files, as they come."""

import os
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import torch

from datamodules.decoding.image_files import ImageFiles, TryDecode
from datamodules.loading.loader import TimedLoader, available_cores
from datamodules.loading.progress import progress
from scripts.inference.prediction_table import PredictionTable, Row
from scripts.inference.predictions import probabilities_of
from scripts.inference.trained_network import TrainedNetwork

# Images that a worker process decodes at a time, at least: handing over fewer costs more than it gains.
FEWEST_DECODED = 4


def predict_files(
    trained: TrainedNetwork,
    paths: Sequence[str],
    table: PredictionTable,
    batch_size: int | None = None,
    num_workers: int | None = None,
    begun: int = 0,
) -> Generator[list[Row]]:
    """Predict files, which other processes decode meanwhile; the rows of each batch after the `begun` first ones."""
    size = batch_size or trained.batch_size
    names = np.array([os.fsencode(path) for path in paths], np.bytes_)
    files = ImageFiles(Path(), names, trained.shape, trained.resize, trained.pixel_format)
    workers = available_cores() if num_workers is None else num_workers
    # Each batch is decoded by all workers, so that the first is there soonest and a small one is shared too.
    share = max(FEWEST_DECODED, -(-min(size, len(paths)) // max(1, workers)))
    batches = [range(start, min(start + size, len(paths))) for start in range(begun * size, len(paths), size)]
    chunks = [batch[place : place + share] for batch in batches for place in range(0, len(batch), share)]
    workers = min(workers, len(chunks)) if len(chunks) > 1 else 0
    on_gpu = trained.device.type == "cuda"
    decoded = iter(
        TimedLoader(TryDecode(files), batch_size=None, sampler=chunks, num_workers=workers, pin_memory=on_gpu)
    )
    with trained.autocast_context(), progress("Predicting", sum(map(len, batches)), aside=True) as advance:
        for batch in batches:
            images, errors = list[torch.Tensor](), dict[int, str]()
            for place in range(0, len(batch), share):
                some, reasons = next(decoded)
                images.append(some)
                errors |= {place + row: reason for row, reason in reasons.items()}
            logits = trained.logits(torch.cat(images)).numpy()
            probabilities = probabilities_of(logits, trained.is_multi_label)
            yield table.rows(paths[batch.start : batch.stop], logits, probabilities, errors)
            advance(len(batch))
