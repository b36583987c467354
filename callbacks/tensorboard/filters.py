"""The filters of a convolution, before and after training."""

from typing import TYPE_CHECKING, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.sharding import has_all_weights
from callbacks.tensorboard.board import write_picture
from models.classifier import Classifier

if TYPE_CHECKING:
    from PIL.Image import Image

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)  # the layers whose filters can be drawn
COLUMNS = 8  # tiles in a row
MOST_INPUTS = 16  # input channels up to which each filter has a row of its own


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


def convolutions(network: nn.Module) -> list[str]:
    """The names of the layers whose filters can be drawn, in the order of their construction."""
    return [name for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)]


def filters_picture(weight: Tensor, most: int) -> "Image":
    """Draw the filters of a convolution on one scale, symmetric around 0; three input channels as colours."""
    from callbacks.tensorboard.image_grid import image_grid

    weight = weight.detach().float().cpu()
    if weight.ndim == 3:
        weight = weight[:, :, None]
    largest = weight.abs().max()
    inputs = weight.shape[1]
    if inputs == 3:
        tiles = (0.5 + weight[:most] / (2 * largest.clamp(min=1e-30))).clamp(0, 1)
        return image_grid(tiles, list(map(str, range(len(tiles)))), COLUMNS)
    slices = weight.flatten(0, 1)[:most]
    numbers = range(len(slices))
    captions = [str(number) if inputs == 1 else f"{number % inputs} to {number // inputs}" for number in numbers]
    captions[0] += f"\n{-float(largest):.2g} to {float(largest):.2g}"
    columns = inputs if 1 < inputs <= MOST_INPUTS else COLUMNS
    return image_grid(coloured(slices, -largest, largest, "RdBu_r"), captions, columns)


def coloured(maps: Tensor, low: Tensor, high: Tensor, colours: str) -> Tensor:
    """Colour numbers, float `[B, h, w]`, by one of matplotlib's maps from `low` to `high`: uint8 `[B, 3, h, w]`."""
    from matplotlib import colormaps

    shares = (maps - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    levels = colormaps[colours](shares.clamp(0, 1).numpy(), bytes=True)[..., :3]
    return torch.from_numpy(levels).permute(0, 3, 1, 2)
