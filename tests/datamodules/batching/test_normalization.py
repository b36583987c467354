import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights

from datamodules.batching.transform import NORMALIZATIONS, Normalization, Normalize, unnormalised
from datamodules.digits import Digits
from tests.discovery import ROOT


def test_imagenet_is_what_torchvisions_weights_expect() -> None:
    transforms = ResNet18_Weights.DEFAULT.transforms()
    assert list(NORMALIZATIONS["imagenet"].mean) == transforms.mean
    assert list(NORMALIZATIONS["imagenet"].std) == transforms.std


def test_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="mean has 1 numbers and std 3"):
        Normalization([0.5], [0.5] * 3)
    with pytest.raises(ValueError, match="no standard deviation is negative"):
        Normalization([0.5], [-0.5])


def test_none_only_scales(digits: Digits) -> None:
    data = Digits(root=digits.root, normalization="none")
    data.setup("fit")
    assert data.pack is not None
    batch = data.pack[torch.arange(5)]
    assert torch.allclose(data.transform(batch, training=False)[0], batch[0] / 255)


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


def test_is_a_function_of_images_alone() -> None:
    images = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 0.0]
    normalised = Normalize(mean, std)(images)
    spread = torch.tensor([0.5, 0.25, 1 / 255]).view(3, 1, 1)
    assert torch.allclose(normalised, (images / 255 - torch.tensor(mean).view(3, 1, 1)) / spread, atol=1e-4)
    assert normalised.dtype == torch.float32
    assert not Normalize(mean, std).state_dict()


@pytest.mark.slow
def test_what_a_prediction_needs_does_not_import_lightning() -> None:
    modules = ["batching.transform", "decoding.image_files", "loading.loader", "packing.left_out", "packing.pack"]
    code = f"import {', '.join(f'datamodules.{name}' for name in modules)}, sys; assert 'lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_sixteen_bits_are_normalised_on_their_own_scale() -> None:
    levels = torch.tensor([100, 300, 500], dtype=torch.int32).to(torch.uint16).view(1, 1, 1, 3)
    mean, std = [300 / 65535], [50 / 65535]  # a spread that 8 bits would not show
    normalised = Normalize(mean, std, 65535)(levels)
    assert normalised.flatten().tolist() == pytest.approx([-4, 0, 4], abs=1e-4)
    shown = unnormalised(normalised, mean, std, 65535)
    assert shown.dtype == torch.uint16
    assert torch.equal(shown, levels)
