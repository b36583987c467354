"""MixUp and CutMix: mix pairs of training images, and their labels in the same proportion.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Beta


class MixUp(nn.Module):
    """Replace each image by `weight * image + (1 - weight) * partner` (Zhang, Cissé, Dauphin and Lopez-Paz, 2018).

    The weight is drawn for each image; the partner is a random image of the same batch.

    Args:
        alpha: The weight has the distribution Beta(alpha, alpha): uniform for 1, near 0 or 1 for a small alpha.

    Shape:
        Images float `[B, C, H, W]` and class probabilities float `[B, K]`; the output has the same shapes.

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
        weights = self.beta.sample((len(images),)).to(images.device, non_blocking=True)
        partners, labels = _draw_partners(images, labels, weights)
        return torch.lerp(partners, images, weights.view(-1, 1, 1, 1)), labels


class CutMix(MixUp):
    """Replace a random box of each image by this part of a partner (Yun et al., 2019).

    The box is drawn for each image; the partner is a random image of the same batch. Boxes may reach over the edge. A
    label's weight is the fraction of pixels that remain in the mixed image. Shapes and errors are those of `MixUp`.

    Args:
        alpha: The fraction of pixels that remain, before boxes are cut at the edge, has the distribution
            Beta(alpha, alpha).
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch."""
        count, _, height, width = images.shape
        side = (1 - self.beta.sample((count,))).sqrt()
        is_in_box = _random_intervals(height, side)[:, :, None] & _random_intervals(width, side)[:, None, :]
        weights = 1 - is_in_box.flatten(1).float().mean(dim=1)
        is_in_box = is_in_box.to(images.device, non_blocking=True)
        weights = weights.to(images.device, non_blocking=True)
        partners, labels = _draw_partners(images, labels, weights)
        return torch.where(is_in_box[:, None], partners, images), labels


def _draw_partners(images: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return a partner for each image, and labels that are mixed by the weights of the images, float `[B]`."""
    indices = torch.randperm(len(images)).to(images.device, non_blocking=True)
    return images[indices], torch.lerp(labels[indices], labels, weights.view(-1, 1))


def _random_intervals(length: int, side: Tensor) -> Tensor:
    """Draw intervals of `side * length` pixels around random centres, as masks bool `[B, length]`."""
    centre = torch.randint(length, side.shape)
    size = (side * length).round().int()
    start = (centre - size // 2).view(-1, 1)
    positions = torch.arange(length)
    return (positions >= start) & (positions < start + size.view(-1, 1))
