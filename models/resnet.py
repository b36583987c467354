"""A residual network for small images."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from models.head import BackboneAndHead, check_sizes
from models.serialization.pretrained import load_weights, read_weights


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them (He, Zhang, Ren and Sun, 2016, figure 2).

    Shape:
        float `[B, in_channels, H, W]` to float `[B, channels, ceil(H / stride), ceil(W / stride)]`.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(features)))))
        return F.relu(residual + self.shortcut(features))


class ResNet(BackboneAndHead):
    """Residual network (He, Zhang, Ren and Sun, 2016) for images of 32x32 or 64x64 pixels: `backbone`, then `head`.

    The stem is one 3x3 convolution that keeps the image size; the stem for ImageNet divides it by four. Every stage but
    the first halves height and width. The scale of each block's last batch norm is initialised to zero, so that the
    block starts as its shortcut (Goyal et al., 2017, section 5.1). The default arguments give ResNet-18.

    Args:
        num_classes: Number of classes, K.
        in_channels: Number of image channels, C.
        channels: Output channels of each stage.
        blocks: Number of blocks in each stage.
        weights: Initial weights: a checkpoint of this network, from which the backbone is loaded, or a file with the
            backbone's state dict. None: random weights.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ValueError: If `channels` and `blocks` have different lengths, are empty or not positive, or if the weights do
            not fit.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        channels: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if len(channels) != len(blocks) or not channels:
            raise ValueError(f"channels has {len(channels)} numbers and blocks {len(blocks)}; give both for each stage")
        check_sizes("channels", channels)
        check_sizes("blocks", blocks)
        stem = (nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU())
        stages: list[nn.Module] = []
        for stage, (fan_in, fan_out) in enumerate(pairwise((channels[0], *channels))):
            first = BasicBlock(fan_in, fan_out, stride=2 if stage else 1)
            stages.append(nn.Sequential(first, *(BasicBlock(fan_out, fan_out) for _ in range(blocks[stage] - 1))))
        self.backbone: nn.Sequential = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels[-1], num_classes)
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
        if weights is not None:
            load_weights(self.backbone, read_weights(weights), weights, type(self).__name__)
