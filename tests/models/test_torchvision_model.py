import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VisionTransformer, get_model, list_models
from torchvision.models.regnet import BlockParams

from datamodules.digits import Digits
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint
from models.torchvision_model import TorchvisionModel
from scripts.train import main
from tests.conftest import Run

# The smallest network of each family, and the side of images that it takes.
FAMILIES = {
    "alexnet": 63,
    "convnext_tiny": 32,
    "densenet121": 29,
    "efficientnet_b0": 8,
    "efficientnet_v2_s": 8,
    "googlenet": 15,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 8,
    "mobilenet_v2": 8,
    "mobilenet_v3_small": 8,
    "regnet_x_400mf": 8,
    "regnet_y_400mf": 8,
    "resnet18": 8,
    "resnext50_32x4d": 8,
    "shufflenet_v2_x0_5": 8,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11": 32,
    "vgg11_bn": 32,
    "vit_b_32": 64,
    "wide_resnet50_2": 8,
}
LARGE = ("alexnet", "maxvit_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_32", "wide_resnet50_2")
SHUFFLENET = ("--model.network=models.torchvision_model.TorchvisionModel", "--model.network.name=shufflenet_v2_x0_5")
SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--early_stopping=null")


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the widths of RegNet, which are computed with tensors, be known without memory for weights."""
    widths = BlockParams.from_init_params

    def on_cpu(*args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):
            return widths(*args, **kwargs)

    monkeypatch.setattr(BlockParams, "from_init_params", on_cpu)


def learnt_layers(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(layer.weight.shape[1::-1]) for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def first_convolution(network: nn.Module) -> nn.Conv2d:
    return next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))


def images(digits: Digits, side: int, channels: int = 3, count: int = 2) -> Tensor:
    scans = digits.pack[digits.splits["train"][:count]][0].float() / 255  # type: ignore[index]
    return nn.functional.interpolate(scans, (side, side)).expand(-1, channels, -1, -1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), FAMILIES.items())
def test_backbone_and_head_of_every_family_give_logits_and_learn(name: str, side: int, digits: Digits) -> None:
    with torch.device("meta" if name in LARGE else "cpu") as device:
        network = TorchvisionModel(name, 7, in_channels=1, image_size=(side, side))
        features = network.backbone(images(digits, side, channels=1).to(device))
    logits = network.head(features)
    assert logits.shape == (2, 7)
    assert features.dim() in (2, 4)
    logits.square().sum().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert learnt_layers(network.head)[-1][1] == 7


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("head_sizes", [None, (6, 5)], ids=["its own head", "a new head"])
def test_every_network_builds_and_keeps_its_backbone(head_sizes: tuple[int, ...] | None) -> None:
    with torch.device("meta"):
        for name in list_models(module=torchvision):
            network = TorchvisionModel(name, 7, head_sizes=head_sizes)
            layers = learnt_layers(network.head)
            assert layers[-1][1] == 7, name
            assert len(layers) == (3 if head_sizes or name.startswith(("alexnet", "vgg")) else len(layers)), name
            assert not [module for module in network.backbone.modules() if getattr(module, "out_features", 0) == 7]
            if head_sizes:
                assert layers[1:] == [(6, 5), (5, 7)], name


@pytest.mark.usefixtures("on_meta")
def test_published_heads_can_be_had() -> None:
    with torch.device("meta"):
        resnet = TorchvisionModel("resnet18", 200, head_sizes=(1024, 1024))
        vgg = TorchvisionModel("vgg16", 2, dropout=0.2)
    assert learnt_layers(resnet.head) == [(512, 1024), (1024, 1024), (1024, 200)]
    assert learnt_layers(vgg.head) == [(25088, 4096), (4096, 4096), (4096, 2)]
    assert [layer.p for layer in vgg.modules() if isinstance(layer, nn.Dropout)] == [0.2, 0.2]
    assert len(learnt_layers(vgg.backbone)) == 13
    assert not [layer for layer in vgg.backbone.modules() if isinstance(layer, nn.Linear)]


def test_dropout_is_there_if_asked_for() -> None:
    for sizes, count in ((None, 1), ((), 1), ((8,), 1), ((8, 8), 2)):
        for network, more in (("shufflenet_v2_x0_5", 0), ("mnasnet0_5", 1 if sizes else 0)):
            head = TorchvisionModel(network, 7, head_sizes=sizes, dropout=0.3).head
            assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.3] * (count + more)
            assert isinstance(head[-1], nn.Linear)
    assert not [m for m in TorchvisionModel("shufflenet_v2_x0_5", 7).modules() if isinstance(m, nn.Dropout)]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_kernels_for_other_channels_keep_the_variance_of_the_output(channels: int) -> None:
    torch.manual_seed(0)
    plain, other = (first_convolution(TorchvisionModel("resnet18", 7, in_channels=count)) for count in (3, channels))
    with torch.no_grad():
        before, after = (layer(torch.randn(4, layer.in_channels, 32, 32)).std() for layer in (plain, other))
    assert float(after / before) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "mobilenet_v3_small", "squeezenet1_1"])
def test_begins_from_a_file_of_torchvision_as_torchvision_does(name: str, tmp_path: Path, digits: Digits) -> None:
    options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    source = get_model(name, **options).eval()
    state = source.state_dict()
    if name == "densenet121":  # as the published file has them
        dots = partial(re.sub, r"(denselayer\d+\.(?:norm|relu|conv))([12])", r"\1.\2")
        state = {dots(key): value for key, value in state.items()}
    torch.save(state, tmp_path / "weights.pth")

    colour, grey = (
        TorchvisionModel(name, 7, channels, weights=str(tmp_path / "weights.pth")).eval() for channels in (3, 1)
    )

    head = source.fc if name in ("resnet18", "googlenet") else source.classifier
    inputs: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    source(images(digits, 64))
    assert torch.equal(colour.backbone(images(digits, 64)), inputs[0])
    assert torch.allclose(grey.backbone(images(digits, 64, channels=1)), inputs[0], rtol=1e-3, atol=1e-4)
    if name == "mobilenet_v3_small":
        assert torch.equal(colour.head.state_dict()["0.weight"], state["classifier.0.weight"])
        assert learnt_layers(colour.head) == [(576, 1024), (1024, 7)]


def test_positions_are_interpolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Digits) -> None:
    def small(name: str, image_size: int, num_classes: int) -> nn.Module:
        network: nn.Module = VisionTransformer(image_size, 8, 1, 2, 16, 16, num_classes=num_classes)
        return network

    source = small("", 64, 1000).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr("models.torchvision_model.get_model", small)
    same, smaller = (
        TorchvisionModel("vit_b_32", 7, image_size=(side, side), weights=str(tmp_path / "weights.pth")).eval()
        for side in (64, 32)
    )
    before, kept, fewer = (
        network.get_parameter("encoder.pos_embedding") for network in (source, same.backbone, smaller.backbone)
    )
    assert torch.equal(kept, before)
    assert fewer.shape == (1, 4 * 4 + 1, 16)
    assert torch.equal(fewer[:, 0], before[:, 0])
    assert smaller(images(digits, 32)).shape == (2, 7)


def test_published_weights_are_taken_from_where_they_were_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], data_root: Path
) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    place = tmp_path / "hub" / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth"
    run = ("--data.root", data_root, "--runs", tmp_path / "runs", *SHORT)
    message = refused("fit", *SHUFFLENET, "--model.network.weights=DEFAULT", *run)
    assert (
        "The weights DEFAULT of shufflenet_v2_x0_5 can be neither downloaded nor read (Name or service not known)"
        in message
    )
    assert (
        f"fetch https://download.pytorch.org/models/{place.name} by other means and put it in {place.parent}, or"
        in message
    )
    assert not list(tmp_path.glob("runs/*/*"))

    source = get_model("shufflenet_v2_x0_5")
    torch.save(source.state_dict(), place)
    for name in ("DEFAULT", "IMAGENET1K_V1", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"):
        begun = TorchvisionModel("shufflenet_v2_x0_5", 7, weights=name)
        assert torch.equal(first_convolution(begun).weight, first_convolution(source).weight)

    damaged = bytearray(place.read_bytes())
    damaged[len(damaged) // 2] ^= 64
    place.write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{place.name} cannot be read"):
        TorchvisionModel("shufflenet_v2_x0_5", 7, weights="DEFAULT")


@pytest.mark.slow
def test_a_run_needs_the_weights_that_it_began_from_no_more(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path, digits: Digits
) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(get_model("shufflenet_v2_x0_5").state_dict(), weights)
    run = train(*SHUFFLENET, *SHORT, f"--model.network.weights={weights}", "--experiment=first")
    assert run.checkpoint["config"]["model"]["network"]["init_args"]["weights"] == str(weights)
    weights.unlink()

    classifier = Classifier.load_from_checkpoint(run.last).eval()
    assert classifier(images(digits, 8, channels=1)).shape == (2, 10)
    saved = run.checkpoint["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in classifier.state_dict().items())
    main(["test", "--ckpt_path", str(run.last)])
    resumed = train("--ckpt_path", str(run.last), "--trainer.max_epochs=2", "--experiment=resumed")
    assert resumed.checkpoint["config"]["model"]["network"]["init_args"]["weights"] == str(weights)
    assert read_checkpoint(resumed.last)["epoch"] == 2

    begun = TorchvisionModel("shufflenet_v2_x0_5", 3, in_channels=1, weights=str(run.last))
    for name, value in begun.backbone.state_dict().items():
        assert torch.equal(value, saved[f"network.backbone.{name}"])

    main(["fit", "--resume", str(run.folder), "--trainer.max_epochs=2"])
    assert read_checkpoint(run.last)["epoch"] == 2
    for flags in (("--resume", run.folder), ("--ckpt_path", run.last)):
        error = refused("fit", *flags, "--model.network.weights=DEFAULT")
        assert "model.network.weights is DEFAULT, but the weights are those of" in error


@pytest.mark.parametrize("name", ["resnet81", "fcn_resnet50"])
def test_a_name_that_is_not_there_is_answered_with_those_near_it(name: str, refused: Callable[..., str]) -> None:
    answer = refused("fit", SHUFFLENET[0], f"--model.network.name={name}", "--experiment=none")
    assert re.search(f"no classification network {name}; did you mean .*resnet", answer)


def test_refuses_weights_that_are_not_there_or_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"DEFALT cannot be read: .* or one of the names IMAGENET1K_V1"):
        TorchvisionModel("resnet18", 7, weights="DEFALT")
    torch.save(get_model("resnet18").state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth do not fit resnet34: 80 missing \(layer1\.2\.conv1\.weight, "):
        TorchvisionModel("resnet34", 7, weights=str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vgg11", (8, 8), "vgg11 does not take 8x8 images: no pixel of them would be left; give images of 32x32"),
        ("vit_b_16", (64, 32), "vit_b_16 does not take 64x32 images: they are not square; give"),
        ("vit_b_16", (60, 60), "vit_b_16 does not take 60x60 images: Input shape indivisible by patch size; give"),
        ("maxvit_t", (64, 64), "maxvit_t does not take 64x64 images: .*; give images of 224x224"),
    ],
)
def test_refuses_images_that_it_cannot_take(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchvisionModel(name, 7, image_size=size)
