"""Confusion matrices of validation and test.

Shapes: a batch of `B` images, `K` classes.
"""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from PIL.Image import Image
from torch import Tensor

from callbacks.run.outside_steps import OutsideSteps
from callbacks.tensorboard.board import write_picture
from models.classifier import Classifier
from models.training.monitor import Basis, basis, still_holds

MOST_CLASSES = 1000  # with more classes, drawing takes seconds and gigabytes, and the picture shows nothing


class ConfusionMatrix(OutsideSteps):
    """Draws `confusion_matrix/val`, of the most accurate validation, and `confusion_matrix/test`.

    The matrices count the images of all ranks. Nothing is drawn for more than 1,000 classes or for multi-label images.
    """

    def __init__(self) -> None:
        self._batches: list[Tensor] = []  # label and predicted class of each image of a batch, int64 `[2, B]`
        self._best: Tensor | None = None  # the matrix of the most accurate validation
        self._basis: Basis = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Record which images are validated."""
        self._basis = basis(trainer, "val/accuracy", "max")

    def state_dict(self) -> dict[str, Any]:
        """Return the best matrix as rows of label, prediction and count, int64 `[n, 3]`, one row per nonzero cell."""
        if self._best is None:
            return {}
        cells = torch.cat([self._best.nonzero(), self._best[self._best > 0][:, None]], dim=1)
        return {"classes": len(self._best), "cells": cells, "basis": self._basis}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best matrix, if the resumed run validates the same images."""
        if still_holds(state_dict.get("basis", {}), self._basis, "the choice of the best confusion matrix"):
            labels, predicted, counts = state_dict["cells"].unbind(dim=1)
            self._best = torch.zeros([state_dict["classes"]] * 2, dtype=torch.long)
            self._best[labels, predicted] = counts

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Keep the label and the predicted class of each image, on the device."""
        if isinstance(outputs, Tensor) and batch[1].ndim == 1:
            self._batches.append(torch.stack([batch[1], outputs.argmax(dim=1)]))

    def on_test_batch_end(self, *arguments: Any) -> None:
        """Keep the label and the predicted class of each image."""
        self.on_validation_batch_end(*arguments)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the matrix if its accuracy is the highest so far."""
        confusion = self._confusion(trainer)
        if trainer.state.fn != "fit" or trainer.sanity_checking or confusion is None:
            return
        if self._best is None or confusion.trace() > self._best.trace():
            self._best = confusion

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the matrix of the best validation."""
        self._draw(trainer, "val", self._best)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the matrix of the test."""
        self._draw(trainer, "test", self._confusion(trainer))

    def _confusion(self, trainer: Trainer) -> Tensor | None:
        """Count the images of all ranks by label and prediction, int64 `[K, K]` on the CPU; None if none is drawn."""
        classifier = cast(Classifier, trainer.lightning_module)
        count = classifier.num_classes
        batches = self._batches or [torch.empty(2, 0, dtype=torch.long)]  # a rank may have no image
        self._batches = []
        if count > MOST_CLASSES or classifier.multi_label:
            return None
        labels, predicted = torch.cat(batches, dim=1).cpu()
        cells = torch.bincount(labels * count + predicted, minlength=count * count)
        total: Tensor = trainer.strategy.reduce(cells.to(trainer.strategy.root_device), reduce_op="sum")
        return total.cpu().view(count, count)

    def _draw(self, trainer: Trainer, split: str, confusion: Tensor | None) -> None:
        if confusion is None:
            return
        class_names = cast(Classifier, trainer.lightning_module).class_names

        def draw() -> Image:
            from callbacks.tensorboard.confusion_picture import confusion_picture

            return confusion_picture(confusion.numpy(), class_names)

        write_picture(trainer, f"confusion_matrix/{split}", draw)
