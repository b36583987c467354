"""Random crops of padded images, for a whole batch in one operation.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError


class RandomCrop(nn.Module):
    """Pad each image, and crop it to its original size at a random position (He et al., 2016, on CIFAR-10).

    It gives the pixels of `kornia.augmentation.RandomCrop` with this padding, in a fourth of the time.

    Args:
        padding: Pixels that are added on each side.
        padding_mode: `reflect`, or `constant` for zeros.

    Shape:
        float `[B, C, H, W]`; the output has the same shape.

    Raises:
        ValueError: If the padding is not positive.
        UserError: When called with `reflect`, if the padding is not smaller than height and width.
    """

    def __init__(self, padding: int = 4, padding_mode: Literal["reflect", "constant"] = "reflect") -> None:
        super().__init__()
        if padding < 1:
            raise ValueError(f"padding is {padding}; give a whole number of pixels of at least 1")
        self.padding = padding
        self.padding_mode = padding_mode

    def forward(self, images: Tensor) -> Tensor:
        """Crop a batch."""
        count, _, height, width = images.shape
        if self.padding_mode == "reflect" and self.padding >= min(height, width):
            raise UserError(
                f"RandomCrop reflects {self.padding} pixels of images of {height}x{width}; give it a padding of less "
                f"than {min(height, width)}."
            )
        top, left = torch.randint(2 * self.padding + 1, (2, count)).to(images.device, non_blocking=True)
        padded = F.pad(images, [self.padding] * 4, mode=self.padding_mode)
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view of all crops, [B, C, top, left, H, W]
        return crops[torch.arange(count, device=images.device), :, top, left]
