from collections.abc import Iterator
from typing import Any

import pytest
import torch
from kornia.augmentation import RandomAffine
from kornia.augmentation.auto import AutoAugment, PolicyAugmentBase, RandAugment, TrivialAugment
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from datamodules.batching.per_image import OneByOne, PerImage, is_drawn_for_a_batch
from datamodules.batching.transform import BatchTransform
from datamodules.digits import Digits


@pytest.mark.parametrize("policy", [RandAugment(2, 10), TrivialAugment(), AutoAugment("cifar10")])
def test_each_image_goes_its_own_way(digits: Digits, policy: PolicyAugmentBase) -> None:
    assert digits.pack is not None
    scan = digits.pack[torch.tensor([3])][0].float().div(255).expand(64, 3, 8, 8)
    torch.manual_seed(0)
    augmented = PerImage(policy)(scan)
    assert augmented.shape == scan.shape
    assert augmented.isfinite().all()
    assert len({tuple(image.flatten().tolist()) for image in augmented}) > 16
    assert (augmented != scan).any()
    torch.manual_seed(0)
    assert torch.equal(PerImage(policy)(scan), augmented)


def test_images_of_one_operation_go_through_it_together(digits: Digits) -> None:
    class Ways(RandAugment):
        """Nothing for the first image, two operations for the second, and so on."""

        def get_forward_sequence(self, params: Any = None) -> Iterator[tuple[str, Any]]:
            self.row = getattr(self, "row", -1) + 1
            return iter([("first", self.doubled), ("second", self.shifted)] if self.row % 2 else [])

    calls: list[int] = []

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images * 2

    policy = Ways(1, 10)
    policy.doubled, policy.shifted = counted, lambda images: images + 1  # type: ignore[assignment]
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 2, 2)
    augmented = PerImage(policy)(images)[:, 0, 0, 0].tolist()
    assert augmented == [0, 3, 2, 7, 4, 11]
    assert calls == [3]


TORCHVISION = [
    v2.RandomRotation(30),
    v2.RandomAffine(10, (0.2, 0.2)),
    v2.RandAugment(),
    v2.Compose([v2.RandomRotation(30), v2.ColorJitter(0.4)]),
    nn.Sequential(v2.RandomRotation(30), nn.Identity()),
    transforms.RandomRotation(30),
]


@pytest.mark.parametrize("module", TORCHVISION, ids=lambda module: type(module).__name__)
def test_torchvisions_transforms_are_drawn_for_each_image(digits: Digits, module: nn.Module) -> None:
    assert digits.pack is not None
    scan = digits.pack[torch.tensor([3])][0].float().div(255).expand(64, 3, 8, 8)
    torch.manual_seed(0)
    augmented = BatchTransform([0.0] * 3, [1.0] * 3, [module], (), 10)((scan, torch.zeros(64)), training=True)[0]
    assert augmented.shape == scan.shape
    assert len({tuple(image.flatten().tolist()) for image in augmented}) > 16


def test_those_that_follow_each_other_may_pass_on_other_sizes(digits: Digits) -> None:
    assert digits.pack is not None
    scans = digits.pack[torch.arange(20)][0].float()
    assert OneByOne(v2.RandomResize(8, 16), v2.CenterCrop(8))(scans).shape == scans.shape
    assert OneByOne(v2.RandomResize(9, 16))(scans).shape[1:] != scans.shape[1:]


def test_other_modules_get_the_batch() -> None:
    assert not is_drawn_for_a_batch(nn.Sequential(RandomAffine(10.0), nn.Identity()))
