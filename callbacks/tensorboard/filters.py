"""Pictures of a convolution's filters, before and after training."""

from functools import partial
from typing import cast

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.run.logged_steps import has_all_weights
from callbacks.run.outside_steps import OutsideSteps
from callbacks.tensorboard.board import write_picture
from models.classifier import Classifier


class Filters(OutsideSteps):
    """Draws the filters of the first convolution as `filters/<layer>`, before training and after it.

    The filters after training are those of the last epoch or, with weight averaging, the averaged ones.

    Args:
        max_tiles: Number of tiles to draw, from the first filter on.

    Raises:
        ValueError: If `max_tiles` is not positive.
    """

    def __init__(self, max_tiles: int = 64) -> None:
        if max_tiles < 1:
            raise ValueError(f"filters.max_tiles is {max_tiles}; give a whole number of at least 1")
        self.max_tiles = max_tiles

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the initial filters, except in a resumed run."""
        self._draw(trainer, at_start=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the trained filters."""
        self._draw(trainer, at_start=False)

    def _draw(self, trainer: Trainer, *, at_start: bool) -> None:
        from callbacks.tensorboard.image_grid import convolutions, filters_picture

        network = cast(Classifier, trainer.lightning_module).network
        names = convolutions(network)
        if names and has_all_weights(trainer):
            weight = cast(Tensor, network.get_submodule(names[0]).weight)
            draw = partial(filters_picture, weight, self.max_tiles)
            write_picture(trainer, f"filters/{names[0]}", draw, at_start=at_start)
