"""A plain convolutional network."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from models.head import check_sizes, head_layers


class ConvNet(nn.Module):
    """Convolution stages and a fully connected head (LeCun, Bottou, Bengio and Haffner, 1998).

    A stage consists of convolution, batch norm, activation, 2x2 max pooling and dropout of whole channels. A hidden
    layer of the head consists of linear layer, batch norm, activation and dropout. Batch norm, pooling and dropout are
    optional.

    Args:
        in_channels: Number of image channels, C.
        image_size: Height and width of the images in pixels.
        num_classes: Number of classes, K.
        channels: Output channels of each stage.
        kernel_size: Height and width of the kernels in pixels.
        padding: Pixels added on each side; by default half the kernel size, so that odd kernels keep the image size.
        activation: Non-linearity of stages and head.
        pooled_stages: How many of the first stages end in pooling; by default all.
        global_pool: Whether global average pooling precedes the head.
        batch_norm: Whether stages have batch norm (Ioffe and Szegedy, 2015).
        dropout: Probability that a channel is zeroed in training (Tompson et al., 2015): one number, or one per stage.
        head_sizes: Width of each hidden layer of the head.
        head_batch_norm: Whether hidden layers of the head have batch norm.
        head_dropout: Probability that a hidden unit of the head is zeroed in training.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ValueError: If the image is too small for the stages, a layer has no channel or unit, or `dropout` has neither
            one value nor one for each stage.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 3,
        padding: int | None = None,
        activation: type[nn.Module] = nn.ReLU,
        pooled_stages: int | None = None,
        global_pool: bool = False,
        batch_norm: bool = True,
        dropout: float | Sequence[float] = 0.0,
        head_sizes: Sequence[int] = (128,),
        head_batch_norm: bool = False,
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes("channels", channels)
        check_sizes("head_sizes", head_sizes)
        padding = kernel_size // 2 if padding is None else padding
        pooled_stages = len(channels) if pooled_stages is None else pooled_stages
        dropouts = [dropout] * len(channels) if isinstance(dropout, int | float) else list(dropout)
        if len(dropouts) != len(channels):
            raise ValueError(f"dropout has {len(dropouts)} numbers for {len(channels)} stages; give one for each")

        stages: list[nn.Module] = []
        height, width = image_size
        for stage, (fan_in, fan_out) in enumerate(pairwise((in_channels, *channels))):
            stages.append(nn.Conv2d(fan_in, fan_out, kernel_size, padding=padding, bias=not batch_norm))
            if batch_norm:
                stages.append(nn.BatchNorm2d(fan_out))
            stages.append(activation())
            height += 2 * padding - kernel_size + 1
            width += 2 * padding - kernel_size + 1
            if stage < pooled_stages:
                stages.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            if dropouts[stage]:
                stages.append(nn.Dropout2d(dropouts[stage]))
            if min(height, width) < 1:
                raise ValueError(
                    f"stage {stage + 1} of {len(channels)} leaves no pixel of {image_size[0]}x{image_size[1]} images; "
                    "use fewer channels, pooled_stages or a smaller kernel_size"
                )
        if global_pool:
            stages.append(nn.AdaptiveAvgPool2d(1))
            height = width = 1
        self.stages = nn.Sequential(*stages)

        features = (in_channels, *channels)[-1] * height * width
        head = head_layers(features, head_sizes, num_classes, activation, head_dropout, head_batch_norm)
        self.head = nn.Sequential(nn.Flatten(), *head)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float `[B, K]`."""
        return self.head(self.stages(images))
