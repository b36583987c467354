"""The filters of a convolution, and what training has made of them."""

from typing import cast

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.sharding import has_all_weights
from callbacks.tensorboard.board import write_to_tensorboard
from callbacks.tensorboard.filters_picture import convolutions, filters_picture
from models.classifier import Classifier


class Filters(OutsideSteps):
    """Draws the filters of the first convolution for TensorBoard as `filters/<layer>`, before training and after it.

    After training they are those of the last epoch, or of the average of weights. A network without has none.

    Args:
        max_tiles: Tiles to draw, from the first filter's.

    Raises:
        ValueError: If `max_tiles` is not positive.
    """

    def __init__(self, max_tiles: int = 64) -> None:
        if max_tiles < 1:
            raise ValueError(f"filters.max_tiles is {max_tiles}; give a whole number of at least 1")
        self.max_tiles = max_tiles

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them as they are, unless the run's folder has them."""
        self._draw(trainer, pl_module, at_start=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what has become of them."""
        self._draw(trainer, pl_module, at_start=False)

    def _draw(self, trainer: Trainer, pl_module: LightningModule, *, at_start: bool) -> None:
        network = cast(Classifier, pl_module).network
        if not (names := convolutions(network)) or not has_all_weights(trainer):
            return
        weight = cast(Tensor, network.get_submodule(names[0]).weight)
        write_to_tensorboard(
            trainer,
            lambda writer: writer.add_image(
                f"filters/{names[0]}",
                np.asarray(filters_picture(weight, self.max_tiles)),
                0 if at_start else trainer.global_step,
                dataformats="HWC",
            ),
            at_start=at_start,
        )
