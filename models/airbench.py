"""The network that is trained to 94 % on CIFAR-10 in the fewest operations."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.head import refuse_empty


class ShiftNorm2d(nn.BatchNorm2d):
    """Batch norm without scales, whose shifts learn as at 64 times the learning rate (Page, 2019; Jordan, 2024).

    A stored shift is multiplied by 8 when it is added: its gradient is 8 times as large, and so is what a step of the
    optimizer does with it. Weight decay is not multiplied.

    Args:
        channels: Channels, C.

    Shape:
        float `[B, C, H, W]` to the same.
    """

    FACTOR = 8.0

    ones: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4, affine=False)
        self.shift = nn.Parameter(torch.zeros(channels))
        # CUDA's backward pass fails where there is a shift without a scale.
        self.register_buffer("ones", torch.ones(channels), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            self.ones,
            self.FACTOR * self.shift,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )


class AirbenchNet(nn.Module):
    """Whitened patches, then stages of two 3x3 convolutions (Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds").

    The first layer maps each 2x2 patch of the image to numbers that do not depend on each other: `whitening`, to be set
    by `callbacks.whitening.Whitening` and frozen. A stage halves height and width after its first convolution; each
    convolution begins by handing on what it is given. The logits are scaled down, by 9 as published for three stages of
    which the last has 256 channels.

    Args:
        in_channels: Channels of the images, C.
        image_size: Height and width of the images in pixels.
        num_classes: Classes, K.
        channels: Output channels of each stage.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ValueError: If a stage would have no channel, or the stages would leave no pixel of the image.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        channels: Sequence[int] = (64, 256, 256),
    ) -> None:
        super().__init__()
        refuse_empty("channels", channels)
        if (min(image_size) - 1) >> len(channels) < 1:
            raise ValueError(
                f"{len(channels)} stages leave no pixel of {image_size[0]}x{image_size[1]} images; give fewer channels"
            )
        patches = 2 * in_channels * 2 * 2  # each direction, and its opposite
        self.whitening = nn.Conv2d(in_channels, patches, 2, bias=False)
        self.shift = nn.Parameter(torch.zeros(patches, 1, 1))
        stages: list[nn.Module] = []
        for fan_in, fan_out in pairwise((patches, *channels)):
            stages += [_convolution(fan_in, fan_out), nn.MaxPool2d(2), ShiftNorm2d(fan_out), nn.GELU()]
            stages += [_convolution(fan_out, fan_out), ShiftNorm2d(fan_out), nn.GELU()]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear((patches, *channels)[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each class."""
        features: Tensor = self.stages(F.gelu(self.whitening(images) + self.shift))
        # torch 2.11 has no translation of adaptive maximum pooling to ONNX.
        pooled = F.max_pool2d(features, features.shape[-2:]).flatten(1)
        logits: Tensor = self.head(pooled) / 9
        return logits


def _convolution(fan_in: int, fan_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[:fan_in])
    return layer
