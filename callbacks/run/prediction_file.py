"""Predictions as a table."""

import csv
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from datamodules.base import ImageDataModule


class PredictionFile(Callback):
    """Writes a row for each image that is predicted: its number in the data set, label, prediction and probability.

    Args:
        file: The CSV file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._written = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file."""
        self._opened = self.file.open("w", newline="")
        self._writer = csv.writer(self._opened)
        self._writer.writerow(["image", "label", "prediction", "probability"])

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch: logits float32 `[B, K]` and labels int64 `[B]`."""
        data = cast(ImageDataModule, getattr(trainer, "datamodule"))  # noqa: B009 - the Trainer declares none
        logits, labels = cast(Tensor, outputs), cast(Tensor, batch[1])
        probabilities, classes = logits.softmax(dim=1).max(dim=1)
        images = data.splits["test"][self._written : self._written + len(labels)]
        self._written += len(labels)
        columns = (column.tolist() for column in (images, labels, classes, probabilities))
        for image, label, predicted, probability in zip(*columns, strict=True):
            self._writer.writerow([image, data.class_names[label], data.class_names[predicted], f"{probability:.6f}"])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the file."""
        self._opened.close()
