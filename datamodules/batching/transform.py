"""What happens to a batch on the device, before the network sees it; normalisation is the same in inference.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError

# Images, uint8, uint16 or float32 `[B, C, H, W]`, and labels, int64 `[B]` or, of mixed images, probabilities `[B, K]`.
# Several labels per image are uint8 `[B, K]` and, once transformed, float32.
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Normalization:
    """`(x - mean) / std` for each channel; a ValueError if there is not one of each, or a deviation is negative.

    Args:
        mean: Mean of each channel on the scale [0, 1].
        std: Standard deviation of each channel, likewise.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; give one of each per channel")
        if min(self.std, default=0) < 0:
            raise ValueError(f"std is {list(self.std)}; no standard deviation is negative")


# Known normalisations by name; each number is that of the set's own training images unless said otherwise.
NORMALIZATIONS = {
    # As torchvision's pretrained weights expect them.
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # To [-1, 1], as Inception (Szegedy et al., 2015) and vision transformers of the original release expect.
    "inception": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    # The 400 million pairs of Radford et al., 2021.
    "clip": Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": Normalization((0.1307,), (0.3081,)),
}


def chosen_normalization(choice: str | Normalization, channels: int) -> Normalization | None:
    """The normalisation that `data.normalization` asks for; None if it is to be computed."""
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
    """Levels from 0 to `highest` to `(level / highest - mean) / std`, as one multiplication and one addition.

    It maps images, uint8, uint16 or float `[B, C, H, W]`, to float32 and follows them to their device; float32 images
    are changed in place. `mean` and `std`, `C` numbers each, are on the scale [0, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], highest: int = 255) -> None:
        super().__init__()
        shift, spread = (torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1) for numbers in (mean, std))
        spread = spread.clamp(min=1 / highest)  # a channel that is the same everywhere has no spread to divide by
        self.register_buffer("scale", 1 / (highest * spread), persistent=False)
        self.register_buffer("shift", -shift / spread, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images."""
        if self.scale.device != images.device:
            self.to(images.device)
        return images.float().mul_(self.scale).add_(self.shift)


def unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float], highest: int = 255) -> Tensor:
    """Undo the normalisation of images, float `[B, C, H, W]`; the result is cut off at its lowest and highest level.

    It is float32 in [0, 1] or, if the highest level is not that of 8 bits, uint16 levels.
    """
    normalize = Normalize(mean, std, highest).to(images.device)
    levels = ((images.float() - normalize.shift) / normalize.scale).clamp(0, highest)
    return levels / highest if highest == 255 else levels.round().to(torch.uint16)


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
