"""Which classes are taken for which.

Shapes: a batch of `B` images, `K` classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from callbacks.run.outside_steps import OutsideSteps
from callbacks.tensorboard.board import write_picture
from core.names import escape_name
from models.classifier import Classifier
from models.training.monitor import Basis, basis, still_holds

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_CLASSES = 1000  # the most that are drawn or listed: more take seconds and gigabytes, and nothing can be seen
MOST_NUMBERED = 20  # classes up to which each cell shows its number of images
CELL = 12  # pixels of a cell of more classes: its row's name can be read beside it
LONGEST_SIDE = 3000  # pixels of all cells in a row; where cells must be smaller than `CELL`, there are no names
NUMBERED_CELL, NUMBERED_FONT = 32, 16  # least pixels of a cell with a number, and pixels of its letters
FONT = 11  # pixels of the letters of more classes
WIDEST_NAME = 150  # pixels of a class name
SHADES = 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7  # shares of a class's images where the next shade begins

# The shades: cividis, which looks the same to the colour-blind (Nuñez et al., 2018).
COLOURS = "#d9dfea", "#b5c3d9", "#8da3c4", "#6a86ad", "#4b6a97", "#2f5080", "#173869", "#00224e"


class ConfusionMatrix(OutsideSteps):
    """Draws for TensorBoard how many images of each class were taken for each: `confusion_matrix/val` and `/test`.

    After training it draws the validation with the most images right, and after the test the test, from the logits of
    all processes. Of more than 1,000 classes, and of several labels per image, nothing is drawn.
    """

    def __init__(self) -> None:
        self._answers: list[Tensor] = []  # label and prediction of each image, a tensor for each batch
        self._best: Tensor | None = None
        self._basis: Basis = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what is validated."""
        self._basis = basis(trainer, "val/accuracy", "max")

    def state_dict(self) -> dict[str, Any]:
        """The best matrix, as the rows, columns and numbers of its cells, int64 `[n, 3]`."""
        if self._best is None:
            return {}
        cells = torch.cat([self._best.nonzero(), self._best[self._best > 0][:, None]], dim=1)
        return {"classes": len(self._best), "cells": cells, "basis": self._basis}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best matrix, if later validations are of the same images."""
        if still_holds(state_dict.get("basis", {}), self._basis, "the choice of the best confusion matrix"):
            *places, numbers = state_dict["cells"].unbind(dim=1)
            self._best = torch.zeros([state_dict["classes"]] * 2, dtype=torch.long).index_put(tuple(places), numbers)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Note label and prediction of each image."""
        if isinstance(outputs, Tensor) and batch[1].ndim == 1:
            self._answers.append(torch.stack([batch[1], outputs.argmax(dim=1)]))

    def on_test_batch_end(self, *arguments: Any) -> None:
        """Note label and prediction of each image."""
        self.on_validation_batch_end(*arguments)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the best matrix."""
        confusion = self._confusion(trainer)
        if trainer.state.fn != "fit" or trainer.sanity_checking or confusion is None:
            return
        if self._best is None or confusion.trace() > self._best.trace():
            self._best = confusion

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the best validation."""
        self._draw(trainer, "val", self._best)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the test."""
        self._draw(trainer, "test", self._confusion(trainer))

    def _confusion(self, trainer: Trainer) -> Tensor | None:
        """Images of all processes by label and prediction, int64 `[K, K]`, on the CPU; None if they are not drawn."""
        classifier = cast(Classifier, trainer.lightning_module)
        count, answers = classifier.num_classes, self._answers or [torch.empty(2, 0, dtype=torch.long)]
        self._answers = []
        if count > MOST_CLASSES or classifier.multi_label:
            return None
        labels, taken = torch.cat(answers, dim=1).cpu()
        cells = torch.bincount(labels * count + taken, minlength=count * count)
        whole: Tensor = trainer.strategy.reduce(cells.to(trainer.strategy.root_device), reduce_op="sum")
        return whole.cpu().view(count, count)

    def _draw(self, trainer: Trainer, split: str, confusion: Tensor | None) -> None:
        if confusion is not None:
            names = cast(Classifier, trainer.lightning_module).class_names
            write_picture(trainer, f"confusion_matrix/{split}", lambda: confusion_picture(confusion.numpy(), names))


def shade_levels(confusion: NDArray[np.int64], totals: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """The shade of each cell `[K, K]`: 0 without images, else from 1 up by its share of the row's images, `[K]`."""
    shares = confusion / np.maximum(confusion.sum(axis=1) if totals is None else totals, 1)[:, None]
    levels: NDArray[np.int64] = np.where(confusion > 0, np.digitize(shares, SHADES) + 1, 0)
    return levels


def confusion_picture(
    confusion: NDArray[np.int64], class_names: Sequence[str], totals: NDArray[np.int64] | None = None
) -> "Image":
    """Draw a confusion matrix, int64 `[K, K]`: a row for each label, a column for each prediction.

    Where images have several labels, `totals`, int64 `[K]`, are the images of each row. The picture's `info` has the
    pixels before the first row and column, and those of a cell's side.
    """
    from PIL import Image, ImageColor, ImageDraw, ImageFont

    from callbacks.tensorboard.image_grid import shortened

    count, numbered = len(class_names), len(class_names) <= MOST_NUMBERED
    letters, least = (NUMBERED_FONT, NUMBERED_CELL) if numbered else (FONT, 1)
    font = ImageFont.load_default(letters)
    widest = int(font.getlength(f"{confusion.max():,}")) + 6 if numbered else min(CELL, LONGEST_SIDE // count)
    cell = max(least, widest)
    named = cell >= CELL
    names = [shortened(escape_name(name), WIDEST_NAME, font) if named else "" for name in class_names]
    margin, line = int(max(map(font.getlength, names))) + 12, int(1.5 * letters)
    before, side = margin + line, count * cell

    levels = shade_levels(confusion, totals)
    palette = np.array([ImageColor.getrgb(colour) for colour in ("white", *COLOURS)], np.uint8)
    squares = palette[levels].repeat(cell, axis=0).repeat(cell, axis=1)
    if named:
        squares[cell - 1 :: cell] = squares[:, cell - 1 :: cell] = 235  # lines, to follow a row by
    title = "rows: label, columns: prediction"
    if totals is None or (totals == confusion.sum(axis=1)).all():
        title = f"{int(np.trace(confusion)):,} of {int(confusion.sum()):,} right; {title}"
    canvas = Image.new("RGB", (max(before + side, int(font.getlength(title))) + 8, before + side + 8), "white")
    canvas.info |= {"before": before, "cell": cell}
    canvas.paste(Image.fromarray(squares), (before, before))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((before - 1, before - 1, before + side, before + side), outline="#888888")
    draw.text((4, 2), title, "black", font)
    for number, name in enumerate(names if named else ()):
        draw.text((before - 6, before + (number + 0.5) * cell), name, "black", font, anchor="rm")
        upright = Image.new("RGB", (margin - 2, cell), "white")
        ImageDraw.Draw(upright).text((6, cell / 2), name, "black", font, anchor="lm")
        canvas.paste(upright.rotate(90, expand=True), (before + number * cell, line))
    for row, column in np.argwhere(confusion) if numbered else ():
        place = before + (column + 0.5) * cell, before + (row + 0.5) * cell
        ink = "white" if levels[row, column] > len(SHADES) // 2 else "black"
        draw.text(place, f"{confusion[row, column]:,}", ink, font, anchor="mm")
    return canvas
