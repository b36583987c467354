"""The airbench network, which reaches 94 % on CIFAR-10 in seconds."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.head import check_sizes


class ShiftNorm2d(nn.BatchNorm2d):
    """Batch norm with a shift but no scale; the shift learns 64 times as fast (Page, 2019; Jordan, 2024).

    `forward` multiplies the stored shift by 8. That multiplies both its gradient and the effect of a step by 8, but not
    its weight decay.
    """

    FACTOR = 8.0

    ones: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4, affine=False)
        self.shift = nn.Parameter(torch.zeros(channels))
        # Ones as scale, because CUDA's backward pass fails with a shift but no scale.
        self.register_buffer("ones", torch.ones(channels), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features `[B, C, H, W]`."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        statistics = (self.running_mean, self.running_var)
        shift = self.FACTOR * self.shift
        return F.batch_norm(features, *statistics, self.ones, shift, self.training, self.momentum or 0.0, self.eps)


class AirbenchNet(nn.Module):
    """Whitened patches, then stages of two 3x3 convolutions (Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds").

    The first layer, `whitening`, decorrelates each 2x2 patch of the image; `callbacks.whitening.Whitening` sets and
    freezes it. Each stage halves height and width after its first convolution. Convolutions are initialised as the
    identity. The logits are divided by 9, as published for three stages, the last with 256 channels.

    Args:
        in_channels: Number of image channels, C.
        image_size: Height and width of the images in pixels.
        num_classes: Number of classes, K.
        channels: Output channels of each stage.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ValueError: If a stage has no channel, or the image is too small for the number of stages.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        channels: Sequence[int] = (64, 256, 256),
    ) -> None:
        super().__init__()
        check_sizes("channels", channels)
        if (min(image_size) - 1) >> len(channels) < 1:
            raise ValueError(
                f"{len(channels)} stages leave no pixel of {image_size[0]}x{image_size[1]} images; give fewer channels"
            )
        patches = 2 * in_channels * 2 * 2  # a filter for each principal component of a patch, and its negative
        self.whitening = nn.Conv2d(in_channels, patches, 2, bias=False)
        self.shift = nn.Parameter(torch.zeros(patches, 1, 1))
        stages: list[nn.Module] = []
        for fan_in, fan_out in pairwise((patches, *channels)):
            stages += [_convolution(fan_in, fan_out), nn.MaxPool2d(2), ShiftNorm2d(fan_out), nn.GELU()]
            stages += [_convolution(fan_out, fan_out), ShiftNorm2d(fan_out), nn.GELU()]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear((patches, *channels)[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float `[B, K]`."""
        features: Tensor = self.stages(F.gelu(self.whitening(images) + self.shift))
        # torch 2.11 cannot export adaptive maximum pooling to ONNX.
        pooled = F.max_pool2d(features, features.shape[-2:]).flatten(1)
        return self.head(pooled) / 9


def _convolution(fan_in: int, fan_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[:fan_in])
    return layer
