"""Which pixels of an image speak for a class.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns, normalised, float32; classes are int64 `[B]`.
Networks are in evaluation mode.
"""

import torch
from torch import Tensor, nn

from scripts.inference.layers import scaled

OCCLUDED = 8  # the part of each side that is covered at a time, as 1 of so many


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
