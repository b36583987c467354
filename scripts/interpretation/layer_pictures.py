"""Pictures of the outputs of a layer, and of the parts of an image that speak for a class.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns, normalised, float32; classes are int64 `[B]`.
A layer's maps are `[c, h, w]`. Networks are in evaluation mode.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from callbacks.tensorboard.image_grid import COLUMNS, coloured, image_grid, picture
from scripts.inference.layers import scaled
from scripts.report.chart import new_figure, picture_of

OCCLUDED = 8  # the part of each side that is covered at a time, as 1 of so many


def activations_picture(output: Tensor, most: int) -> Image.Image:
    """Draw the output of a layer for an image: maps, a feature of each place `[h, c]`, or numbers."""
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
        figure.colorbar(axes.imshow(output.numpy(), aspect="auto", interpolation="nearest"))
        axes.set(xlabel="feature", ylabel="place")
    else:
        axes.plot(output.flatten().numpy(), marker=".", linewidth=0.8)
        axes.set(xlabel="unit", ylabel="output")
    return picture_of(figure)


def saliency(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Which pixels change the logit of a class most: the size of its gradient, the largest over channels.

    Source: K. Simonyan, A. Vedaldi and A. Zisserman, "Deep Inside Convolutional Networks", 2013.

    Returns:
        float32 `[B, H, W]` in [0, 1].
    """
    images = images.detach().requires_grad_()
    logits = network(images.clone())  # the first layer may work in place
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), images)
    return scaled(gradient.float().abs().amax(dim=1))


@torch.no_grad()
def occlusion(network: nn.Module, images: Tensor, classes: Tensor, multi_label: bool = False) -> Tensor:
    """What covering a square of the image takes from the probability of a class; negative where it adds to it.

    Source: M. D. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", 2013.

    The square is 0, the training images' mean.

    Returns:
        float32 `[B, H, W]`, the mean difference of the probability over the squares that covered the pixel.
    """

    def probability(batch: Tensor) -> Tensor:
        logits: Tensor = network(batch).float()
        return (logits.sigmoid() if multi_label else logits.softmax(dim=1)).gather(1, classes[:, None])[:, :, None]

    height, width = images.shape[2:]
    rows, columns = max(1, height // OCCLUDED), max(1, width // OCCLUDED)
    down, right = max(1, rows // 2), max(1, columns // 2)
    lost, times = torch.zeros_like(images[:, 0], dtype=torch.float32), torch.zeros_like(images[0, 0])
    whole = probability(images)
    for top in range(0, height - rows + down, down):
        for left in range(0, width - columns + right, right):
            square = (..., slice(top, top + rows), slice(left, left + columns))
            covered = images.clone()
            covered[square] = 0
            lost[square] += whole - probability(covered)
            times[square] += 1
    return lost / times


def attribution_picture(image: Tensor, name: str, numbers: Tensor, title: str, *, signed: bool = False) -> Image.Image:
    """Draw an image uint8 `[3, H, W]` beside a map float `[H, W]`, in [0, 1] unless signed."""
    figure = new_figure()
    figure.set_figheight(4)
    first, axes = figure.subplots(1, 2, subplot_kw={"frame_on": False, "xticks": [], "yticks": []})
    pixels = np.asarray(picture(image))
    first.imshow(pixels, interpolation="nearest")
    first.set_title("image")
    end = float(numbers.abs().max()) or 1.0
    low, high, colours = (-end, end, "RdBu_r") if signed else (0.0, 1.0, "inferno")
    axes.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    shown = axes.imshow(numbers.cpu().numpy(), cmap=colours, vmin=low, vmax=high, alpha=0.65)
    axes.set_title(name)
    figure.colorbar(shown, ax=axes, shrink=0.7)
    figure.suptitle(title)
    return picture_of(figure)
