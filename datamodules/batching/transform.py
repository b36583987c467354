"""What happens to a batch on the device, before the network sees it.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError
from datamodules.batching.normalization import Normalize

# Images, uint8, uint16 or float32 `[B, C, H, W]`, and labels, int64 `[B]` or, of mixed images, probabilities `[B, K]`.
# Several labels per image are uint8 `[B, K]` and, once transformed, float32.
Batch = tuple[Tensor, Tensor]


class BatchTransform:
    """Turns levels up to `highest` to float32, augments and mixes in training, and normalises to `(x - mean) / std`.

    `augmentation` modules map float32 images `[B, C, H, W]` in [0, 1] to such images, and are applied in turn; one of
    the `mixing` modules is drawn for each batch.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Sequence[nn.Module],
        mixing: Sequence[nn.Module],
        num_classes: int,
        highest: int = 255,
    ) -> None:
        self.normalize = Normalize(mean, std, highest)
        self.highest = highest
        self.augmentation: Sequence[nn.Module] = ()
        if augmentation:
            from datamodules.batching.per_image import drawn_per_image  # which imports kornia

            self.augmentation = drawn_per_image(augmentation)
        self.mixing = mixing
        self.num_classes = num_classes

    @torch.no_grad()
    def __call__(self, batch: Batch, *, training: bool) -> Batch:
        """Transform images uint8 or uint16 `[B, C, H, W]` and labels int64 `[B]` or uint8 `[B, K]`.

        Labels of mixed images, and several labels per image, become float32 `[B, K]`.
        """
        images, labels = batch
        if training and self.augmentation:
            images = self._augmented(images)
        images = self.normalize(images)
        if labels.ndim == 2:
            labels = labels.float()
        if training and self.mixing:
            number = int(torch.randint(len(self.mixing), ())) if len(self.mixing) > 1 else 0
            shares = labels if labels.ndim == 2 else F.one_hot(labels, self.num_classes).float()
            images, labels = self.mixing[number](images, shares)
        return images, labels

    def _augmented(self, images: Tensor) -> Tensor:
        augmented = images / self.highest
        for module in self.augmentation:
            augmented = module(augmented)
        if augmented.shape != images.shape:
            raise UserError(
                f"data.augmentation makes images of {list(augmented.shape[1:])} from {list(images.shape[1:])}; give it "
                f"the size of the images, {list(images.shape[2:])}."
            )
        return augmented * self.highest
