"""Pictures of the outputs of a layer, and of where in an image a network looks.

Shapes: a layer's maps are `[c, h, w]`, an image is `[3, H, W]`.
"""

import numpy as np
from PIL import Image
from torch import Tensor

from callbacks.tensorboard.image_grid import COLUMNS, coloured, image_grid, picture
from scripts.report.chart import new_figure, picture_of

MOST_BARS = 64  # numbers of a vector up to which each is a bar; more are a line


def activations_picture(output: Tensor, most: int) -> Image.Image:
    """Draw the output of a layer for an image."""
    output = output.float().cpu()
    if output.ndim == 3:
        maps = output[:most]
        low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
        ends = zip(low.flatten().tolist(), high.flatten().tolist(), strict=True)
        captions = [f"{number}\n{least:.2g} to {largest:.2g}" for number, (least, largest) in enumerate(ends)]
        return image_grid(coloured(maps, low, high, "viridis"), captions, COLUMNS)
    figure = new_figure()
    axes = figure.subplots()
    if output.ndim == 2:
        shown = axes.imshow(output.numpy(), aspect="auto", interpolation="nearest")
        axes.set(xlabel="feature", ylabel="place")
        figure.colorbar(shown)
    else:
        numbers = output.flatten().numpy()
        if len(numbers) <= MOST_BARS:
            axes.bar(range(len(numbers)), numbers)
        else:
            axes.plot(numbers, linewidth=0.8)
        axes.set(xlabel="unit", ylabel="output")
        axes.grid(alpha=0.3)
    return picture_of(figure)


def attribution_picture(image: Tensor, name: str, numbers: Tensor, title: str, *, signed: bool = False) -> Image.Image:
    """Draw an image uint8 `[3, H, W]` beside a map float `[H, W]`, in [0, 1] unless signed."""
    figure = new_figure()
    figure.set_figheight(4)
    first, axes = figure.subplots(1, 2)
    pixels = np.asarray(picture(image))
    first.imshow(pixels, interpolation="nearest")
    first.set_title("image")
    end = float(numbers.abs().max()) or 1.0
    low, high, colours = (-end, end, "RdBu_r") if signed else (0.0, 1.0, "inferno")
    axes.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    shown = axes.imshow(numbers.cpu().numpy(), cmap=colours, vmin=low, vmax=high, alpha=0.65)
    axes.set_title(name)
    figure.colorbar(shown, ax=axes, shrink=0.7)
    for each in (first, axes):
        each.set_axis_off()
    figure.suptitle(title)
    return picture_of(figure)
