import pytest
import torch
from kornia.augmentation import RandomCrop, RandomRotation
from kornia.augmentation.auto import TrivialAugment
from torch import nn

from core.user_error import UserError
from datamodules.batching.per_image import PerImage
from datamodules.batching.transform import Batch, BatchTransform
from datamodules.digits import Digits
from datamodules.mixing import CutMix, MixUp


@pytest.fixture
def batch(digits: Digits) -> Batch:
    assert digits.pack is not None
    return digits.pack[torch.arange(40)]


def test_normalises_in_training_and_evaluation(batch: Batch) -> None:
    transform = BatchTransform([0.3], [0.5], (), (), 10)
    for training in (False, True):
        images, labels = transform(batch, training=training)
        assert torch.allclose(images, (batch[0] / 255 - 0.3) / 0.5, atol=1e-6)
        assert labels is batch[1]


def test_augments_on_the_scale_from_0_to_1_and_in_training_alone(batch: Batch) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return 1 - images

    transform = BatchTransform([0.0], [1.0], [Spy()], (), 10)
    transform(batch, training=False)
    assert not seen
    assert torch.allclose(transform(batch, training=True)[0], 1 - batch[0] / 255, atol=1e-6)
    assert torch.equal(seen[0], batch[0] / 255)


def test_a_policy_is_drawn_per_image() -> None:
    assert isinstance(BatchTransform([0.0], [1.0], [TrivialAugment()], (), 10).augmentation[0], PerImage)


def test_draws_one_of_several_mixings_for_each_batch(batch: Batch) -> None:
    transform = BatchTransform([0.0], [1.0], (), [MixUp(1.0), CutMix(1.0)], 10)
    torch.manual_seed(0)
    levels = [len(transform(batch, training=True)[0].unique()) for _ in range(10)]  # type: ignore[no-untyped-call]
    assert min(levels) <= 17 < 100 < max(levels), "cutting keeps the 17 grey levels, mixing makes others"


def test_refuses_augmentation_that_changes_the_size(batch: Batch) -> None:
    transform = BatchTransform([0.0], [1.0], [RandomRotation(10.0), RandomCrop((4, 4))], (), 10)
    with pytest.raises(UserError, match=r"images of \[1, 4, 4\] from \[1, 8, 8\]; give it .*\[8, 8\]"):
        transform(batch, training=True)
