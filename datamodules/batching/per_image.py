"""Augmentation that is drawn anew for each image where a module would draw it for the batch."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

import torch
from kornia.augmentation.auto import PolicyAugmentBase
from torch import Tensor, nn


def drawn_per_image(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Wrap the modules that would draw once for a whole batch: policies of kornia, transforms of torchvision."""
    wrapped: list[nn.Module] = []
    for one_by_one, some in groupby(modules, is_drawn_for_a_batch):
        if one_by_one:
            wrapped.append(OneByOne(*some))
        else:
            wrapped += (PerImage(module) if isinstance(module, PolicyAugmentBase) else module for module in some)
    return wrapped


def is_drawn_for_a_batch(module: nn.Module) -> bool:
    """Whether a module is torchvision's, or one of its parts is."""
    return any(type(part).__module__.startswith("torchvision.transforms") for part in module.modules())


class PerImage(nn.Module):
    """Lets each image of a batch, float `[B, C, H, W]`, take its own way through one of kornia's policies.

    kornia draws one way for the whole batch, and only the magnitudes for each image; the papers of RandAugment,
    AutoAugment and TrivialAugment (Cubuk et al., 2019 and 2020; Müller and Hutter, 2021) draw both for each. Images
    whose next operation is the same go through it together.
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
    """Gives modules each image, float `[B, C, H, W]`, as a batch of its own: torchvision's draw once for a batch."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*modules)

    def forward(self, images: Tensor) -> Tensor:
        """Augment each image; if one changes its size, give that one alone, whose size the caller refuses."""
        augmented = [self.layers(image) for image in torch.split(images, 1)]
        other = [each for each in augmented if each.shape[1:] != images.shape[1:]]
        return torch.cat(other[:1] or augmented)
