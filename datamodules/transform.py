"""What happens to a batch on the device, before the network sees it.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from kornia.augmentation.auto import PolicyAugmentBase
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.per_image import OneByOne, PerImage, is_drawn_for_a_batch

Batch = tuple[Tensor, Tensor]
"""Images, uint8 or float32 `[B, C, H, W]`, and labels, int64 `[B]` or, of mixed images, probabilities `[B, K]`."""


class Normalize(nn.Module):
    """Levels from 0 to 255 to `(level / 255 - mean) / std`, as one multiplication and one addition.

    Args:
        mean: Mean of each channel on the scale [0, 1], `C` numbers.
        std: Standard deviation of each channel, likewise.

    Shape:
        uint8 or float `[B, C, H, W]` to float32 `[B, C, H, W]`; float32 images are changed in place.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        shift, spread = _shift_and_spread(mean, std)
        self.register_buffer("scale", 1 / (255 * spread), persistent=False)
        self.register_buffer("shift", -shift / spread, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images."""
        return images.float().mul_(self.scale).add_(self.shift)


class BatchTransform:
    """Turns uint8 to float32, augments and mixes in training, and normalises to `(x - mean) / std`.

    Args:
        mean: Mean of each channel on the scale [0, 1].
        std: Standard deviation of each channel, likewise.
        augmentation: Modules that map float32 images `[B, C, H, W]` in [0, 1] to such images, applied in turn.
        mixing: Modules that mix images and their labels; one of them is drawn for each batch.
        num_classes: Classes, K.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Sequence[nn.Module],
        mixing: Sequence[nn.Module],
        num_classes: int,
    ) -> None:
        self.augmentation: list[nn.Module] = []
        for one_by_one, modules in groupby(augmentation, is_drawn_for_a_batch):
            if one_by_one:
                self.augmentation.append(OneByOne(*modules))
            else:
                self.augmentation += (
                    PerImage(each) if isinstance(each, PolicyAugmentBase) else each for each in modules
                )
        self.mixing = mixing
        self.num_classes = num_classes
        self._normalize = Normalize(mean, std)

    @torch.no_grad()
    def __call__(self, batch: Batch, *, training: bool) -> Batch:
        """Transform a batch.

        Args:
            batch: Images uint8 `[B, C, H, W]` and labels int64 `[B]`.
            training: Whether to augment and to mix.

        Returns:
            Images float32 `[B, C, H, W]` and labels int64 `[B]` or, when mixed, float32 `[B, K]`.

        Raises:
            MisconfigurationException: If augmentation changes the images' shape.
        """
        images, labels = batch
        if self._normalize.scale.device != images.device:
            self._normalize.to(images.device)
        if training and self.augmentation:
            images = self._augmented(images)
        images = self._normalize(images)
        if training and self.mixing:
            number = int(torch.randint(len(self.mixing), ())) if len(self.mixing) > 1 else 0
            images, labels = self.mixing[number](images, F.one_hot(labels, self.num_classes).float())
        return images, labels

    def _augmented(self, images: Tensor) -> Tensor:
        augmented = images / 255
        for module in self.augmentation:
            augmented = module(augmented)
        if augmented.shape != images.shape:
            raise MisconfigurationException(
                f"data.augmentation makes images of {list(augmented.shape[1:])} from {list(images.shape[1:])}; give it "
                f"the size of the images, {list(images.shape[2:])}."
            )
        return augmented * 255


def _shift_and_spread(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    # A channel that is the same everywhere has no spread to divide by.
    shift, spread = (torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1) for numbers in (mean, std))
    return shift, spread.clamp(min=1 / 255)


def unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undo the normalisation.

    Args:
        images: Normalised images, float `[B, C, H, W]`.
        mean: The mean of each channel, `C` numbers, on the scale of [0, 1].
        std: Likewise the standard deviation.

    Returns:
        Images, float32 `[B, C, H, W]`, cut off at 0 and 1.
    """
    shift, spread = (part.to(images.device) for part in _shift_and_spread(mean, std))
    return (images.float() * spread + shift).clamp(0, 1)
