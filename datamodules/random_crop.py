"""Images shifted at random, a whole batch in one operation.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError


class RandomCrop(nn.Module):
    """A cutting of the image's own size at a random place of the padded image (He et al., 2016, on CIFAR-10).

    The pixels are those of `kornia.augmentation.RandomCrop` of the same padding, in a fourth of the time.

    Args:
        padding: Pixels on each side.
        padding_mode: `reflect`, or `constant` for zeros.

    Shape:
        float `[B, C, H, W]` to the same.

    Raises:
        ValueError: If the padding is not positive.
        UserError: When called, if images are too small to be reflected as far.
    """

    def __init__(self, padding: int = 4, padding_mode: Literal["reflect", "constant"] = "reflect") -> None:
        super().__init__()
        if padding < 1:
            raise ValueError(f"padding is {padding}; give a whole number of pixels of at least 1")
        self.padding = padding
        self.padding_mode = padding_mode

    def forward(self, images: Tensor) -> Tensor:
        """Cut a batch."""
        count, _, height, width = images.shape
        if self.padding_mode == "reflect" and self.padding >= min(height, width):
            raise UserError(
                f"RandomCrop reflects {self.padding} pixels of images of {height}x{width}; give it a padding of less "
                f"than {min(height, width)}."
            )
        top, left = torch.randint(2 * self.padding + 1, (2, count)).to(images.device, non_blocking=True)
        padded = F.pad(images, [self.padding] * 4, mode=self.padding_mode)
        cuttings = padded.unfold(2, height, 1).unfold(3, width, 1)  # all of them, as a view [B, C, top, left, H, W]
        return cuttings[torch.arange(count, device=images.device), :, top, left]
