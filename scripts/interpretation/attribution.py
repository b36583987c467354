"""Which pixels of an image speak for a class, by captum.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns, normalised, float32; classes are int64 `[B]`.
Networks are in evaluation mode.
"""

import copy
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn

from core.user_error import UserError
from scripts.inference.layers import scaled

OCCLUDED = 8  # the part of each side that is covered at a time, as 1 of so many


def captum_attr() -> ModuleType:
    """The library."""
    try:
        return import_module("captum.attr")
    except ModuleNotFoundError as error:
        raise UserError(
            "This picture needs captum, which is not installed; run pip install -e '.[interpretation]'."
        ) from error


def saliency(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Which pixels change the logit of a class most: the size of its gradient, the largest over channels.

    Source: K. Simonyan, A. Vedaldi and A. Zisserman, "Deep Inside Convolutional Networks", 2013; by captum.

    Returns:
        float32 `[B, H, W]` in [0, 1].
    """
    network = copy.deepcopy(network)
    for module in network.modules():
        if "inplace" in vars(module):
            vars(module)["inplace"] = False  # or it would write over its input, whose gradient is asked for
    gradient = captum_attr().Saliency(network).attribute(images.clone().requires_grad_(), target=classes)
    return scaled(gradient.detach().float().amax(dim=1))


def occlusion(network: nn.Module, images: Tensor, classes: Tensor, multi_label: bool = False) -> Tensor:
    """What covering a square of the image takes from the probability of a class; negative where it adds to it.

    Source: M. D. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", 2013; by captum.

    The square is 0, the training images' mean.

    Returns:
        float32 `[B, H, W]`, the mean difference of the probability over the squares that covered the pixel.
    """
    channels, height, width = images.shape[1:]
    rows, columns = max(1, height // OCCLUDED), max(1, width // OCCLUDED)
    steps = (channels, max(1, rows // 2), max(1, columns // 2))

    def probabilities(batch: Tensor) -> Tensor:
        logits: Tensor = network(batch)
        return logits.float().sigmoid() if multi_label else logits.float().softmax(dim=1)

    with torch.no_grad():
        lost = (
            captum_attr()
            .Occlusion(probabilities)
            .attribute(images, target=classes, sliding_window_shapes=(channels, rows, columns), strides=steps)
        )
    mean: Tensor = lost.detach().float().mean(dim=1)
    return mean
