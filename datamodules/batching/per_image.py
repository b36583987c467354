"""Draw augmentation parameters for each image, where a module would draw them once for the whole batch."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

import torch
from kornia.augmentation.auto import PolicyAugmentBase
from torch import Tensor, nn


def drawn_per_image(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Wrap kornia's policies and torchvision's transforms, which draw once for a whole batch."""
    wrapped: list[nn.Module] = []
    for one_by_one, adjacent in groupby(modules, is_drawn_for_a_batch):
        if one_by_one:
            wrapped.append(OneByOne(*adjacent))
        else:
            wrapped += (PerImage(module) if isinstance(module, PolicyAugmentBase) else module for module in adjacent)
    return wrapped


def is_drawn_for_a_batch(module: nn.Module) -> bool:
    """Return True if a module, or one inside it, is torchvision's."""
    return any(type(part).__module__.startswith("torchvision.transforms") for part in module.modules())


class PerImage(nn.Module):
    """Draws the operations of one of kornia's policies for each image of a batch, float `[B, C, H, W]`.

    kornia draws the operations once for the batch, and only their magnitudes for each image; the papers of RandAugment,
    AutoAugment and TrivialAugment (Cubuk et al., 2019 and 2020; Müller and Hutter, 2021) draw both for each image.
    Images with the same next operation are processed together.
    """

    def __init__(self, policy: PolicyAugmentBase) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, images: Tensor) -> Tensor:
        """Augment each image."""
        sequences = [[module for _, module in self.policy.get_forward_sequence()] for _ in images]
        images = images.clone()
        for step in range(max(map(len, sequences))):
            rows_of = defaultdict(list)
            for row, sequence in enumerate(sequences):
                if step < len(sequence):
                    rows_of[sequence[step]].append(row)
            for operation, rows in rows_of.items():
                images[rows] = operation(images[rows])
        return images


class OneByOne(nn.Module):
    """Applies modules to each image, float `[B, C, H, W]`, as a batch of one: torchvision draws once for a batch."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*modules)

    def forward(self, images: Tensor) -> Tensor:
        """Augment each image; if an image changes its size, return it alone, so that the caller reports the size."""
        augmented = [self.layers(image) for image in torch.split(images, 1)]
        resized = [image for image in augmented if image.shape[1:] != images.shape[1:]]
        return torch.cat(resized[:1] or augmented)
