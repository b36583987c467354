import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.classifier import Classifier
from models.timm_model import TimmModel
from tests.conftest import Run


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache without weights, and no network to fill it from."""
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_says_how_to_install_timm(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    answer = refused("fit", "--model.network=models.timm_model.TimmModel", "--model.network.name=resnet18")
    assert answer.endswith("TimmModel needs timm, which is not installed; run pip install -e '.[timm]'.\n")


@pytest.mark.parametrize(
    ("name", "side"),
    [("mobilenetv3_small_050", 32), ("resnet18", 32), ("vit_tiny_patch16_224", 48), ("levit_128s", 224)],
)
def test_backbone_and_head_give_logits(name: str, side: int) -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    network = TimmModel(name, 7, in_channels=1, image_size=(side, side), head_sizes=(6,), dropout=0.2)
    images = torch.randn(2, 1, side, side)
    features = network.backbone(images)
    assert features.dim() == 2
    assert network.head(features).shape == (2, 7)
    assert [type(layer) for layer in network.head] == [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    network(images).square().sum().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilnetv3_small_100", r"timm has no network mobilnetv3_small_100; did you mean .*mobilenetv3_small_100"),
        ("?", r"timm has no network \?; timm\.list_models\(\) gives all names"),
        ("resnet18.a9_in1k", r"timm has no weights resnet18\.a9_in1k; give resnet18 and one of a1_in1k, "),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_those_near_it(name: str, message: str) -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    with pytest.raises(ValueError, match=message):
        TimmModel(name, 7)


@pytest.mark.parametrize(("weights", "tag"), [("DEFAULT", "a1_in1k"), ("a3_in1k", "a3_in1k")])
def test_says_where_to_put_weights_that_cannot_be_downloaded(weights: str, tag: str, offline: Path) -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    with pytest.raises(
        ValueError, match=rf"`hf download timm/resnet18\.{tag}` .* at {offline}/models--timm--resnet18\.{tag}, or give"
    ):
        TimmModel("resnet18", 7, weights=weights)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "levit_128s"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_begins_from_a_file_of_the_whole_network(name: str, suffix: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    whole, file = timm.create_model(name).eval(), tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(whole.state_dict(), file)
    else:
        save_file(whole.state_dict(), file)
    network = TimmModel(name, 7, weights=str(file)).eval()
    images = torch.randn(1, 3, 224, 224)
    whole.reset_classifier(0)
    assert torch.allclose(network.backbone(images), whole(images))


def test_begins_from_the_backbone_of_a_checkpoint(train: Callable[..., Run]) -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    run = train(
        *("--model.network=models.timm_model.TimmModel", "--model.network.name=mobilenetv3_small_050"),
        *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1"),
    )
    network = TimmModel("mobilenetv3_small_050", 7, weights=str(run.last))
    learnt = run.checkpoint["state_dict"]["network.backbone.conv_head.weight"]
    assert torch.equal(network.get_parameter("backbone.conv_head.weight"), learnt)


def test_counts_and_names_what_does_not_fit_in_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    state = timm.create_model("mobilenetv3_small_050").state_dict()
    torch.save({f"_{name}": value for name, value in state.items()}, tmp_path / "weights.pth")
    message = (
        rf"do not fit mobilenetv3_small_050: \d+ missing \(conv_stem\.weight, .*\); {len(state)} unexpected \(_conv"
    )
    with pytest.raises(ValueError, match=message):
        TimmModel("mobilenetv3_small_050", 7, weights=str(tmp_path / "weights.pth"))


def test_refuses_weights_that_are_neither_a_name_nor_a_file() -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    message = r"The weights a9_in1k cannot be read: .* or one of the names DEFAULT, a1_in1k"
    with pytest.raises(ValueError, match=message):
        TimmModel("resnet18", 7, weights="a9_in1k")
    with pytest.raises(ValueError, match=r"DEFAULT cannot be read: .* that torch.save has written$"):
        TimmModel("botnet50ts_256", 7, weights="DEFAULT")


def test_a_checkpoint_is_loaded_without_the_weights_that_it_began_from(
    train: Callable[..., Run], offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, **rest))
    run = train(
        *("--model.network=models.timm_model.TimmModel", "--model.network.name=mobilenetv3_small_050"),
        *("--model.network.weights=DEFAULT", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"),
    )
    monkeypatch.undo()
    assert run.checkpoint["config"]["model"]["network"]["init_args"]["weights"] == "DEFAULT"
    assert isinstance(Classifier.load_from_checkpoint(run.last).network, TimmModel)
