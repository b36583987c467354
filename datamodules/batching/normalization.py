"""What images are normalised by."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.user_error import UserError


@dataclass(frozen=True)
class Normalization:
    """`(x - mean) / std` for each channel.

    Args:
        mean: Mean of each channel on the scale [0, 1].
        std: Standard deviation of each channel, likewise.

    Raises:
        ValueError: If there is not one of each for every channel, or a deviation is negative.
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
    # The training images of ILSVRC 2012, as torchvision's pretrained weights expect them.
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # To [-1, 1], as Inception (Szegedy et al., 2015) and vision transformers of the original release expect.
    "inception": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    # The 400 million pairs of Radford et al., 2021.
    "clip": Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    # The 50,000 training images, each.
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    # The 60,000 training images.
    "mnist": Normalization((0.1307,), (0.3081,)),
    # Only scaled to [0, 1].
    "none": Normalization((0.0,), (1.0,)),
}


def chosen_normalization(choice: str | Normalization, channels: int) -> Normalization | None:
    """What `data.normalization` stands for."""
    if isinstance(choice, str):
        if choice == "computed":
            return None
        if choice not in NORMALIZATIONS:
            raise UserError(
                f"data.normalization is {choice}; give computed, {', '.join(NORMALIZATIONS)}, or mean and std."
            )
        known = NORMALIZATIONS[choice]
        if choice == "none":
            known = Normalization(*([number[0]] * channels for number in (known.mean, known.std)))
        choice = known
    if len(choice.mean) != channels:
        raise UserError(
            f"data.normalization has {len(choice.mean)} means; the images have {channels} channels, so give {channels} "
            "of each."
        )
    return choice


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
