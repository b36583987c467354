"""Augment, mix and normalize a batch on the device; inference normalizes in the same way.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError

# Images, uint8, uint16 or float32 `[B, C, H, W]`, and labels: int64 `[B]`, or float32 probabilities `[B, K]` of mixed
# images. Multi-label data has labels uint8 `[B, K]`, and float32 after the transform.
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Normalization:
    """The constants of `(x - mean) / std` for each channel.

    Args:
        mean: Mean of each channel on the scale [0, 1].
        std: Standard deviation of each channel on the scale [0, 1].

    Raises:
        ValueError: If `mean` and `std` have different lengths, or a standard deviation is negative.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; give one of each per channel")
        if min(self.std, default=0) < 0:
            raise ValueError(f"std is {list(self.std)}; no standard deviation is negative")


# Known normalizations by name, computed from the training images of the named data set unless a comment differs.
NORMALIZATIONS = {
    # Expected by torchvision's pretrained weights.
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Scales to [-1, 1], as Inception (Szegedy et al., 2015) and the original vision transformers expect.
    "inception": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    # From the 400 million image-text pairs of Radford et al., 2021.
    "clip": Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": Normalization((0.1307,), (0.3081,)),
}


def chosen_normalization(choice: str | Normalization, channels: int) -> Normalization | None:
    """Return the normalization that `data.normalization` names, or None if it has to be computed."""
    if choice == "computed":
        return None
    if choice == "none":
        return Normalization([0.0] * channels, [1.0] * channels)
    if isinstance(choice, str):
        if choice not in NORMALIZATIONS:
            raise UserError(
                f"data.normalization is {choice}; give computed, {', '.join(NORMALIZATIONS)}, none, or mean and std."
            )
        choice = NORMALIZATIONS[choice]
    if len(choice.mean) != channels:
        raise UserError(
            f"data.normalization has {len(choice.mean)} means; the images have {channels} channels, so give {channels} "
            "of each."
        )
    return choice


class Normalize(nn.Module):
    """Normalizes pixels from 0 to `highest` by `(x / highest - mean) / std`, as one multiplication and one addition.

    Images, uint8, uint16 or float `[B, C, H, W]`, become float32; float32 images are changed in place. The module moves
    itself to their device. `mean` and `std`, `C` numbers each, are on the scale [0, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], highest: int = 255) -> None:
        super().__init__()
        means = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1)
        stds = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1)
        stds = stds.clamp(min=1 / highest)  # a constant channel has a standard deviation of 0
        self.register_buffer("scale", 1 / (highest * stds), persistent=False)
        self.register_buffer("shift", -means / stds, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalize images."""
        if self.scale.device != images.device:
            self.to(images.device)
        return images.float().mul_(self.scale).add_(self.shift)


def unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float], highest: int = 255) -> Tensor:
    """Undo the normalization of images `[B, C, H, W]`: float32 clamped to [0, 1], or uint16 if `highest` is not 255."""
    normalize = Normalize(mean, std, highest).to(images.device)
    pixels = ((images.float() - normalize.shift) / normalize.scale).clamp(0, highest)
    return pixels / highest if highest == 255 else pixels.round().to(torch.uint16)


class BatchTransform:
    """Augments and mixes training batches, and normalizes every batch to float32 `(x / highest - mean) / std`.

    The `augmentation` modules are applied in turn to float32 images `[B, C, H, W]` in [0, 1]. One of the `mixing`
    modules is drawn for each batch.
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
            from datamodules.batching.per_image import drawn_per_image  # imports kornia

            self.augmentation = drawn_per_image(augmentation)
        self.mixing = mixing
        self.num_classes = num_classes

    @torch.no_grad()
    def __call__(self, batch: Batch, *, training: bool) -> Batch:
        """Transform images uint8 or uint16 `[B, C, H, W]` and labels int64 `[B]` or uint8 `[B, K]`.

        Mixed and multi-label labels become float32 `[B, K]`.
        """
        images, labels = batch
        if training and self.augmentation:
            images = self._augmented(images)
        images = self.normalize(images)
        if labels.ndim == 2:
            labels = labels.float()
        if training and self.mixing:
            number = int(torch.randint(len(self.mixing), ())) if len(self.mixing) > 1 else 0
            probabilities = labels if labels.ndim == 2 else F.one_hot(labels, self.num_classes).float()
            images, labels = self.mixing[number](images, probabilities)
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
