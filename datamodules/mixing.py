"""Training images mixed of two, with labels to match.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Beta


class MixUp(nn.Module):
    """Each image becomes `weight * image + (1 - weight) * another` (Zhang, Cissé, Dauphin and Lopez-Paz, 2018).

    The weight is drawn for each image, the other image from the same batch.

    Args:
        alpha: The weight's distribution, Beta(alpha, alpha): near 0 or 1 for a small alpha, uniform for 1.

    Shape:
        Images float `[B, C, H, W]` and class probabilities float `[B, K]` to the same.

    Raises:
        ValueError: If alpha is not positive.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"alpha is {alpha}; give a positive number")
        self.beta = Beta(alpha, alpha, validate_args=False)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch."""
        weight = self.beta.sample((len(images),)).to(images.device, non_blocking=True)
        others, labels = _paired(images, labels, weight)
        return torch.lerp(others, images, weight.view(-1, 1, 1, 1)), labels


class CutMix(MixUp):
    """A box of each image is replaced by that part of another (Yun et al., 2019).

    The box is drawn for each image, the other image from the same batch; a label's weight is the share of pixels that
    is really there, boxes that reach over the edge included. Shapes and errors are those of `MixUp`.

    Args:
        alpha: The distribution, Beta(alpha, alpha), of the share of pixels that stay.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch."""
        count, _, height, width = images.shape
        side = (1 - self.beta.sample((count,))).sqrt()
        inside = _interval(height, side)[:, :, None] & _interval(width, side)[:, None, :]
        weight = 1 - inside.flatten(1).float().mean(dim=1)
        inside, weight = (part.to(images.device, non_blocking=True) for part in (inside, weight))
        others, labels = _paired(images, labels, weight)
        return torch.where(inside[:, None], others, images), labels


def _paired(images: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Another image for each, and the labels of both; the image's own labels have the share `weight`, float `[B]`."""
    other = torch.randperm(len(images)).to(images.device, non_blocking=True)
    return images[other], torch.lerp(labels[other], labels, weight.view(-1, 1))


def _interval(length: int, side: Tensor) -> Tensor:
    """Places, bool `[B, length]`, within `side * length` of each other around a random centre."""
    centre = torch.randint(length, side.shape)
    half = (side * length).round().int()
    start = (centre - half // 2).view(-1, 1)
    places = torch.arange(length)
    return (places >= start) & (places < start + half.view(-1, 1))
