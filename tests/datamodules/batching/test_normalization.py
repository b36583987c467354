import pytest
import torch
from torchvision.models import ResNet18_Weights

from datamodules.batching.normalization import NORMALIZATIONS, Normalization
from datamodules.digits import Digits


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
