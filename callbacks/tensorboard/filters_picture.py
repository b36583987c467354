"""The filters of a convolution as a picture."""

import torch
from PIL import Image
from torch import Tensor, nn

from callbacks.tensorboard.image_grid import image_grid

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)  # the layers whose filters can be drawn

COLUMNS = 8  # tiles in a row

MOST_INPUTS = 16  # input channels up to which each filter has a row of its own


def convolutions(network: nn.Module) -> list[str]:
    """The names of the layers whose filters can be drawn, in the order of their making."""
    return [name for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)]


def filters_picture(weight: Tensor, most: int) -> Image.Image:
    """Draw the filters of a convolution, on one scale that is the same on both sides of 0."""
    weight = weight.detach().float().cpu()
    if weight.ndim == 3:
        weight = weight[:, :, None]
    largest = weight.abs().max()
    if weight.shape[1] == 3:
        tiles = (0.5 + weight[:most] / (2 * largest.clamp(min=1e-30))).clamp(0, 1)
        return image_grid(tiles, [str(number) for number in range(len(tiles))], COLUMNS)
    inputs = weight.shape[1]
    slices = weight.flatten(0, 1)[:most]
    numbers = range(len(slices))
    captions = [str(number) if inputs == 1 else f"{number % inputs} to {number // inputs}" for number in numbers]
    captions[0] += f"\n{-float(largest):.2g} to {float(largest):.2g}"
    columns = inputs if 1 < inputs <= MOST_INPUTS else COLUMNS
    return image_grid(coloured(slices, -largest, largest, "RdBu_r"), captions, columns)


def coloured(maps: Tensor, low: Tensor, high: Tensor, colours: str) -> Tensor:
    """Give numbers colours.

    Args:
        maps: float `[B, h, w]`.
        low: What has the first colour, float, of a shape that fits.
        high: What has the last.
        colours: One of matplotlib's maps.

    Returns:
        uint8 `[B, 3, h, w]`.
    """
    from matplotlib import colormaps

    shares = (maps - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    levels = colormaps[colours](shares.clamp(0, 1).numpy(), bytes=True)[..., :3]
    return torch.from_numpy(levels).permute(0, 3, 1, 2)
