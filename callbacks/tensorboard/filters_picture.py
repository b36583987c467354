"""The filters of a convolution as a picture."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)  # the layers whose filters can be drawn
COLUMNS = 8  # tiles in a row
MOST_INPUTS = 16  # input channels up to which each filter has a row of its own


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
