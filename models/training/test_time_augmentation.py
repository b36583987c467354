"""Predictions averaged over several views of each image.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

# Views of an image beside itself: its mirror image; its corners and centre, enlarged; two shifts by a pixel.
Views = Literal["flip", "crops", "crops+flip", "shifts", "shifts+flip"]

CROP = 0.875  # fraction of each side in a crop, as 224 of 256 pixels (Krizhevsky, Sutskever and Hinton, 2012)


def average_logits(
    network: Callable[[Tensor], Tensor], images: Tensor, kind: Views | None, multi_label: bool = False
) -> Tensor:
    """Return the `mean_logits` of the views, float32 `[B, K]`; without views, the logits of the images."""
    if kind is None:
        return network(images)
    return mean_logits([network(view).float() for view in views(images, kind)], multi_label)


def mean_logits(logits: Sequence[Tensor], multi_label: bool = False) -> Tensor:
    """Return logits, float32 `[B, K]`, whose softmax (multi-label: sigmoid) is the mean of the others' softmax."""
    if multi_label:
        stacked = torch.stack(list(logits))
        return F.logsigmoid(stacked).logsumexp(dim=0) - F.logsigmoid(-stacked).logsumexp(dim=0)
    log_probabilities = torch.stack([view_logits.log_softmax(dim=1) for view_logits in logits])
    return log_probabilities.logsumexp(dim=0) - torch.tensor(len(logits)).log()


def views(images: Tensor, kind: Views) -> Iterator[Tensor]:
    """Yield the images `[B, C, H, W]`, then their other views, all of the same size."""
    unflipped = [images]
    if "crops" in kind:
        unflipped += _crops(images)
    if "shifts" in kind:
        unflipped += _shifts(images)
    for view in unflipped:
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
    # By a pixel down and right, then up and left. Small images lose detail when crops are enlarged (Jordan, 2024).
    height, width = images.shape[2:]
    padded = F.pad(images, [1] * 4, mode="replicate")
    for start in (0, 2):
        yield padded[:, :, start : start + height, start : start + width]
