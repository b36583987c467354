"""Augmentation that is drawn anew for each image where a module would draw it for the batch."""

from collections import defaultdict

import torch
from kornia.augmentation.auto import PolicyAugmentBase
from torch import Tensor, nn


class PerImage(nn.Module):
    """Lets each image of a batch go its own way through a policy: RandAugment, TrivialAugment, AutoAugment.

    kornia draws one way for the whole batch, and only the magnitudes for each image; the papers (Cubuk et al., 2019
    and 2020; Müller and Hutter, 2021) draw both for each. Images whose next operation is the same go through it
    together.

    Args:
        policy: One of kornia's policies.

    Shape:
        float `[B, C, H, W]` to the same.
    """

    def __init__(self, policy: PolicyAugmentBase) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, images: Tensor) -> Tensor:
        """Augment each image."""
        ways = [[module for _, module in self.policy.get_forward_sequence()] for _ in images]
        images = images.clone()
        for step in range(max(map(len, ways))):
            rows_of = defaultdict(list)
            for row, way in enumerate(ways):
                if step < len(way):
                    rows_of[way[step]].append(row)
            for operation, rows in rows_of.items():
                images[rows] = operation(images[rows])
        return images


class OneByOne(nn.Module):
    """Gives modules each image as a batch of its own: torchvision's draw once for all that they are given.

    Args:
        modules: What an image goes through.

    Shape:
        float `[B, C, H, W]` to the same.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*modules)

    def forward(self, images: Tensor) -> Tensor:
        """Augment each image; of several sizes, give one that is not that of the images, which is refused."""
        augmented = [self.layers(image) for image in torch.split(images, 1)]
        other = next((each for each in augmented if each.shape[1:] != images.shape[1:]), None)
        return torch.cat(augmented) if other is None else other


def is_drawn_for_a_batch(module: nn.Module) -> bool:
    """Whether a module is torchvision's, or one of its parts is."""
    return any(type(part).__module__.startswith("torchvision.transforms") for part in module.modules())
