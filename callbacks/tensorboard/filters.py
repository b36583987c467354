"""The filters of a convolution, before and after training."""

from typing import cast

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.sharding import has_all_weights
from callbacks.tensorboard.board import write_picture
from callbacks.tensorboard.image_grid import convolutions, filters_picture
from models.classifier import Classifier


class Filters(OutsideSteps):
    """Draws the filters of the first convolution for TensorBoard as `filters/<layer>`, before training and after it.

    After training they are those of the last epoch, or of the average of weights.

    Args:
        max_tiles: Tiles to draw, from the first filter on.

    Raises:
        ValueError: If `max_tiles` is not positive.
    """

    def __init__(self, max_tiles: int = 64) -> None:
        if max_tiles < 1:
            raise ValueError(f"filters.max_tiles is {max_tiles}; give a whole number of at least 1")
        self.max_tiles = max_tiles

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them before training, unless the run's folder has them."""
        self._draw(trainer, at_start=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them after training."""
        self._draw(trainer, at_start=False)

    def _draw(self, trainer: Trainer, *, at_start: bool) -> None:
        network = cast(Classifier, trainer.lightning_module).network
        if (names := convolutions(network)) and has_all_weights(trainer):
            weight = cast(Tensor, network.get_submodule(names[0]).weight)
            name = f"filters/{names[0]}"
            write_picture(trainer, name, lambda: filters_picture(weight, self.max_tiles), at_start=at_start)
