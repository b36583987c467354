"""Which classes are taken for which.

Shapes: a batch of `B` images, `K` classes.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from callbacks.run.outside_steps import OutsideSteps
from callbacks.tensorboard.board import write_to_tensorboard
from callbacks.tensorboard.image_grid import shortened
from core.names import escape_name
from models.classifier import Classifier
from models.training.monitor import Basis, basis, still_holds

# Classes up to which all are drawn or listed: of more, that takes seconds and gigabytes, and nothing can be seen.
MOST_CLASSES = 1000

MOST_NUMBERED = 20  # classes up to which the number of images is written into each cell

CELL = 12  # pixels of a cell where there are more: its row's name is still to be read beside it

LONGEST_SIDE = 3000  # pixels of all cells in a row; where they must be smaller for it, there are no names

NUMBERED_CELL, NUMBERED_FONT = 32, 16  # pixels of a cell at least, and of its letters, where there are not

FONT = 11  # pixels of the letters where there are more

WIDEST_NAME = 150  # pixels of a class name

# Shares of a class's images at which a cell takes the next shade, finer where mistakes are.
SHADES = 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7

# The shades: cividis, which looks the same to the colour-blind (Nuñez et al., 2018).
COLOURS = "#d9dfea", "#b5c3d9", "#8da3c4", "#6a86ad", "#4b6a97", "#2f5080", "#173869", "#00224e"


class ConfusionMatrix(OutsideSteps):
    """Draws for TensorBoard how many images of each class were taken for each: `confusion_matrix/val` and `/test`.

    After training that of the validation in which most images were right, and after the test that of the test. From
    the logits that are there anyway; over several processes, of the images of all. Of more than 1,000 classes there is
    none.
    """

    def __init__(self) -> None:
        self._taken: list[Tensor] = []
        self._best: Tensor | None = None
        self._basis: Basis = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what is validated."""
        self._basis = basis(trainer, "val/accuracy", "max")

    def state_dict(self) -> dict[str, Any]:
        """The best validation's, as the rows, columns and numbers of its cells, int64 `[n, 3]`."""
        if self._best is None:
            return {}
        cells = torch.cat([self._best.nonzero(), self._best[self._best > 0][:, None]], dim=1)
        return {"classes": len(self._best), "cells": cells, "basis": self._basis}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, if further validations are of the same images."""
        if not still_holds(state_dict.get("basis", {}), self._basis, "the choice of the best confusion matrix"):
            return
        rows, columns, numbers = state_dict["cells"].unbind(dim=1)
        if state_dict["classes"] <= MOST_CLASSES:
            self._best = torch.zeros(state_dict["classes"], state_dict["classes"], dtype=torch.long)
            self._best[rows, columns] = numbers

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count anew."""
        self._taken = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note label and prediction of each image."""
        if isinstance(outputs, Tensor):
            self._taken.append(torch.stack([batch[1], outputs.argmax(dim=1)]))

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the best."""
        count = cast(Classifier, pl_module).num_classes
        if trainer.state.fn == "fit" and not trainer.sanity_checking and count <= MOST_CLASSES:
            confusion = self._confusion(trainer, count)
            if self._best is None or confusion.trace() > self._best.trace():
                self._best = confusion

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw that of the best validation."""
        if self._best is not None:
            self._draw(trainer, cast(Classifier, pl_module).class_names, "val", self._best)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw that of the test."""
        classifier = cast(Classifier, pl_module)
        if classifier.num_classes <= MOST_CLASSES:
            self._draw(trainer, classifier.class_names, "test", self._confusion(trainer, classifier.num_classes))

    def _confusion(self, trainer: Trainer, count: int) -> Tensor:
        """Images of all processes by label and prediction, int64 `[K, K]`, on the CPU."""
        labels, taken = torch.cat(self._taken, dim=1).cpu() if self._taken else torch.empty(2, 0, dtype=torch.long)
        found = torch.bincount(labels * count + taken, minlength=count * count)
        whole: Tensor = trainer.strategy.reduce(found.to(trainer.strategy.root_device), reduce_op="sum")
        return whole.cpu().view(count, count)

    def _draw(self, trainer: Trainer, class_names: Sequence[str], split: str, confusion: Tensor) -> None:
        write_to_tensorboard(
            trainer,
            lambda writer: writer.add_image(
                f"confusion_matrix/{split}",
                np.asarray(confusion_picture(confusion.numpy(), class_names)),
                trainer.global_step,
                dataformats="HWC",
            ),
        )


def shade_levels(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """The shade of each cell, from 1 by its share of the row's images, or 0 where there is none.

    Args:
        confusion: Images by label and prediction, int64 `[K, K]`.

    Returns:
        int64 `[K, K]`.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1), 1)[:, None]
    levels: NDArray[np.int64] = np.where(confusion > 0, np.digitize(shares, SHADES) + 1, 0)
    return levels


def confusion_picture(confusion: NDArray[np.int64], class_names: Sequence[str]) -> Image.Image:
    """Draw how many images of each class, in rows, were taken for each class, in columns.

    Args:
        confusion: int64 `[K, K]`.
        class_names: `K` names.

    Returns:
        RGB.
    """
    count, numbered = len(class_names), len(class_names) <= MOST_NUMBERED
    font = ImageFont.load_default(NUMBERED_FONT if numbered else FONT)
    widest = int(font.getlength(f"{confusion.max():,}"))
    cell = max(NUMBERED_CELL, widest + 6) if numbered else max(1, min(CELL, LONGEST_SIDE // count))
    named = cell >= CELL
    names = [shortened(escape_name(name), WIDEST_NAME, font) if named else "" for name in class_names]
    margin, line = int(max(map(font.getlength, names))) + 12, int(1.5 * (NUMBERED_FONT if numbered else FONT))
    left = top = margin + line
    side = count * cell

    levels = shade_levels(confusion)
    palette = np.array([[255, 255, 255], *([int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS)], np.uint8)
    squares = palette[levels].repeat(cell, axis=0).repeat(cell, axis=1)
    if named:
        squares[cell - 1 :: cell] = squares[:, cell - 1 :: cell] = 235  # lines, to follow a row by
    said = f"{int(np.trace(confusion)):,} of {int(confusion.sum()):,} right; rows: label, columns: prediction"
    size = max(left + side, int(font.getlength(said))) + 8, top + side + 8
    canvas = Image.new("RGB", size, "white")
    canvas.paste(Image.fromarray(squares), (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline="#888888")
    draw.text((4, 2), said, "black", font)
    for number, name in enumerate(names if named else ()):
        draw.text((left - 6, top + (number + 0.5) * cell), name, "black", font, anchor="rm")
        upright = Image.new("RGB", (margin - 2, cell), "white")
        ImageDraw.Draw(upright).text((6, cell / 2), name, "black", font, anchor="lm")
        canvas.paste(upright.rotate(90, expand=True), (left + number * cell, line))
    if numbered:
        for row, column in np.argwhere(confusion):
            place = left + (column + 0.5) * cell, top + (row + 0.5) * cell
            ink = "white" if levels[row, column] > len(SHADES) // 2 else "black"
            draw.text(place, f"{confusion[row, column]:,}", ink, font, anchor="mm")
    return canvas
