from pathlib import Path

import pytest
import torch
from kornia.augmentation import RandomCrop, RandomRotation
from kornia.augmentation.auto import TrivialAugment
from torch import nn

from core.user_error import UserError
from datamodules.batching.normalization import unnormalised
from datamodules.batching.per_image import PerImage
from datamodules.batching.transform import Batch, BatchTransform, ModuleState
from datamodules.digits import Digits
from datamodules.mixing import CutMix, MixUp
from tests.faults.noise import Noise


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


@pytest.mark.parametrize("normalization", ["computed", "none"])
def test_unnormalised_images_are_the_raw_ones(data_root: Path, normalization: str) -> None:
    data = Digits(root=data_root, normalization=normalization)
    data.setup("fit")
    raw, labels = next(iter(data.train_dataloader()))
    images, _ = data.transform((raw, labels), training=True)
    assert data.mean is not None
    assert data.std is not None
    levels = unnormalised(images, data.mean, data.std) * 255
    assert torch.equal(levels.round(), raw.float())
    assert torch.allclose(levels, raw.float(), atol=1e-3)


def test_unnormalised_images_lie_between_0_and_1() -> None:
    images = unnormalised(torch.tensor([-9.0, 0.0, 9.0]).view(3, 1, 1, 1), [0.5], [0.0])
    assert images.flatten().tolist() == pytest.approx([0.5 - 9 / 255, 0.5, 0.5 + 9 / 255])
    assert unnormalised(torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1), [0.5], [1.0]).flatten().tolist() == [0, 1]


def test_keeps_what_modules_have_changed_and_nothing_that_they_were_given() -> None:
    noise, again, policy = Noise(), Noise(), TrivialAugment()
    state, taken_up = ModuleState({"augmentation": [policy, noise]}), ModuleState({"augmentation": [policy, again]})
    images = torch.rand(2, 3, 8, 8)
    noise(policy(images))
    moved = state.moved()
    assert set(moved) == {"augmentation.Noise 1.mean", "augmentation.Noise 1._extra_state"}
    before = noise.mean.clone()
    noise(images)
    assert moved["augmentation.Noise 1.mean"] == before
    assert taken_up.load(moved)
    assert (again.mean, again.calls) == (before, 1)
    assert taken_up.load({})  # which is what they were constructed with
    assert not again.mean

    assert not ModuleState({"augmentation": [noise]}).load(moved)
    assert not ModuleState({"augmentation": [policy, nn.BatchNorm2d(3)]}).load(moved)
    assert state.of_each_rank(1) == [state.moved()]
