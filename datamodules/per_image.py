"""An augmentation policy that is drawn anew for each image."""

from collections import defaultdict

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
