"""Draw the output of a layer, and the evidence for a class in an image.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns, normalised, float32; classes are int64 `[B]`.
Networks are in evaluation mode.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from callbacks.tensorboard.image_grid import coloured, image_grid, picture
from scripts.inference.layers import scaled
from scripts.report.chart import new_figure, picture_of

SQUARES = 8  # the square that occlusion covers is 1 / SQUARES of each side of the image


def activations_picture(output: Tensor, max_maps: int) -> Image.Image:
    """Draw a layer's output for one image: the first `max_maps` maps of `[c, h, w]`, a matrix `[h, c]`, or a vector."""
    output = output.float().cpu()
    if output.ndim == 3:
        maps = output[:max_maps]
        low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
        ranges = zip(low.flatten().tolist(), high.flatten().tolist(), strict=True)
        captions = [f"{number}\n{least:.2g} to {largest:.2g}" for number, (least, largest) in enumerate(ranges)]
        return image_grid(coloured(maps, low, high, "viridis"), captions)
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
    """Return the size of the gradient of the class's logit at each pixel, its largest over channels.

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
    """Return by how much the class's probability falls when a square of the image is covered with zeros.

    Zero is the mean of the training images. A pixel that is covered by several squares has their mean.

    Source: M. D. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", 2013.

    Returns:
        float32 `[B, H, W]`, negative where covering raises the probability.
    """

    def probability(batch: Tensor) -> Tensor:
        logits: Tensor = network(batch).float()
        return (logits.sigmoid() if multi_label else logits.softmax(dim=1)).gather(1, classes[:, None])[:, :, None]

    height, width = images.shape[2:]
    rows, columns = max(1, height // SQUARES), max(1, width // SQUARES)
    step_down, step_right = max(1, rows // 2), max(1, columns // 2)
    total_fall, times = torch.zeros_like(images[:, 0], dtype=torch.float32), torch.zeros_like(images[0, 0])
    uncovered = probability(images)
    for top in range(0, height - rows + step_down, step_down):
        for left in range(0, width - columns + step_right, step_right):
            square = (..., slice(top, top + rows), slice(left, left + columns))
            covered = images.clone()
            covered[square] = 0
            total_fall[square] += uncovered - probability(covered)
            times[square] += 1
    return total_fall / times


def attribution_picture(image: Tensor, name: str, numbers: Tensor, title: str, *, signed: bool = False) -> Image.Image:
    """Draw an image, uint8 `[3, H, W]`, beside an attribution map, float `[H, W]`, in [0, 1] unless `signed`."""
    figure = new_figure()
    figure.set_figheight(4)
    image_axes, map_axes = figure.subplots(1, 2, subplot_kw={"frame_on": False, "xticks": [], "yticks": []})
    pixels = np.asarray(picture(image))
    image_axes.imshow(pixels, interpolation="nearest")
    image_axes.set_title("image")
    low, high, colours = 0.0, 1.0, "inferno"
    if signed:
        high = float(numbers.abs().max()) or 1.0
        low, colours = -high, "RdBu_r"
    map_axes.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    overlay = map_axes.imshow(numbers.cpu().numpy(), cmap=colours, vmin=low, vmax=high, alpha=0.65)
    map_axes.set_title(name)
    figure.colorbar(overlay, ax=map_axes, shrink=0.7)
    figure.suptitle(title)
    return picture_of(figure)
