"""Predictions averaged over several views of each image.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

# The image and its mirror image; the image, its corners and its centre; the image and two shifted by a pixel; both.
Views = Literal["flip", "crops", "crops+flip", "shifts", "shifts+flip"]

CROP = 0.875  # the share of each side that a crop keeps, as 224 of 256 pixels (Krizhevsky, Sutskever and Hinton, 2012)


def average_logits(
    network: Callable[[Tensor], Tensor], images: Tensor, kind: Views | None, multi_label: bool = False
) -> Tensor:
    """The `mean_logits` of the views, float32 `[B, K]`; without views the logits of the images."""
    if kind is None:
        return network(images)
    return mean_logits([network(view).float() for view in views(images, kind)], multi_label)


def mean_logits(logits: Sequence[Tensor], multi_label: bool = False) -> Tensor:
    """Logits, float32 `[B, K]`, whose softmax (of several labels, sigmoid) is the mean of those of others."""
    if multi_label:
        each = torch.stack(list(logits))
        return F.logsigmoid(each).logsumexp(dim=0) - F.logsigmoid(-each).logsumexp(dim=0)
    return torch.stack([of.log_softmax(dim=1) for of in logits]).logsumexp(dim=0) - torch.tensor(len(logits)).log()


def views(images: Tensor, kind: Views) -> Iterator[Tensor]:
    """The images `[B, C, H, W]`, then their other views, all of one size."""
    others = _crops(images) if "crops" in kind else _shifts(images) if "shifts" in kind else ()
    for view in (images, *others):
        yield view
        if "flip" in kind:
            yield view.flip(3)


def _crops(images: Tensor) -> Iterator[Tensor]:
    height, width = images.shape[2:]
    rows, columns = max(1, round(CROP * height)), max(1, round(CROP * width))
    bottom, right = height - rows, width - columns
    for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)):
        crop = images[:, :, top : top + rows, left : left + columns]
        yield F.interpolate(crop, (height, width), mode="bilinear", align_corners=False)


def _shifts(images: Tensor) -> Iterator[Tensor]:
    # A pixel down and right, then up and left, for images too small to be enlarged (Jordan, 2024).
    height, width = images.shape[2:]
    padded = F.pad(images, [1] * 4, mode="replicate")
    for start in (0, 2):
        yield padded[:, :, start : start + height, start : start + width]
