import copy
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from core.user_error import UserError
from datamodules.batching.transform import BatchTransform, Normalize
from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from models.mlp import MLP
from models.training.batch_norm import compute_statistics, trained_batch_norms
from models.training.test_time_augmentation import Views
from scripts.inference.export_formats import FORMATS, ExportedModel, ExportError, facts_of
from tests.conftest import trained_network
from tests.discovery import networks
from tests.faults.noise import NoisyConvNet

NAMES = {
    "TorchvisionModel": ("resnet18", "mobilenet_v3_small"),
    "TimmModel": ("resnet18",),
}
"""Networks that are many."""

SIDE = 32


def sgd(groups: Any) -> torch.optim.SGD:
    return torch.optim.SGD(groups, lr=0.1)


def scans(digits: Digits, side: int = 8, count: int = 7) -> Tensor:
    images = digits.pack[digits.splits["test"][:count]][0]  # type: ignore[index]
    return images.repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3)


def classifier_of(network: nn.Module, digits: Digits, num_classes: int = 10, **arguments: Any) -> Classifier:
    classifier = Classifier(network, num_classes, sgd, **arguments)
    classifier.class_names = [str(label) for label in range(num_classes)]
    classifier.preprocessing = dict(digits.preprocessing)
    return classifier


def model_of(classifier: Classifier) -> ExportedModel:
    facts = classifier.preprocessing
    normalize = Normalize(facts["mean"], facts["std"])
    return ExportedModel(classifier.network, normalize, classifier.test_time_augmentation)


def exported(classifier: Classifier, name: str, images: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    model, file = model_of(classifier), folder / f"model{FORMATS[name].suffix}"
    FORMATS[name].write(model, images[:2], file, {"class_names": '["a"]'})
    return FORMATS[name].open(file, model)


@torch.no_grad()
def expected(classifier: Classifier, images: Tensor) -> Tensor:
    facts = classifier.preprocessing
    transform = BatchTransform(facts["mean"], facts["std"], (), (), classifier.num_classes)
    return classifier.eval().predict_logits(transform((images, torch.zeros(len(images))), training=False)[0])


def built(class_: type[nn.Module], **facts: Any) -> nn.Module:
    taken = inspect.signature(class_).parameters
    torch.manual_seed(0)
    return class_(**{name: value for name, value in facts.items() if name in taken})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("class_", "name"),
    [(class_, name) for class_ in networks() for name in NAMES.get(class_.__name__, ("",))],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_network_gives_the_same_in_every_format(
    class_: type[nn.Module], name: str, digits: Digits, tmp_path: Path
) -> None:
    if class_.__name__ == "TimmModel":
        pytest.importorskip("timm", reason="timm is an optional extra")
    facts = {"num_classes": 10, "in_channels": 1, "image_size": (SIDE, SIDE), "in_features": SIDE * SIDE}
    network = built(class_, name=name, **facts)
    images = scans(digits, SIDE)
    classifier = classifier_of(network, digits, channels_last=True)
    compute_statistics(network, trained_batch_norms(network), [torch.randn(16, 1, SIDE, SIDE)])
    logits = expected(classifier, images)
    assert (logits.std(dim=0) > 1e-3 * logits.abs().mean()).all(), "what is compared tells images apart"
    for format_ in FORMATS:
        predict = exported(classifier, format_, images, tmp_path)
        for some in (slice(0, 1), slice(0, 2), slice(0, 7)):
            # Another order of sums adds up over the fifty layers of the deepest.
            atol = 1e-4 if class_.__name__ == "EfficientNetLite" else 1e-5
            assert torch.allclose(predict(images[some]), logits[some], rtol=1e-4, atol=atol), format_


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_levels_are_normalised_bit_for_bit_as_in_training(name: str, digits: Digits, tmp_path: Path) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 1, 1, 1)
    classifier = classifier_of(nn.Flatten(), digits, 256)
    normalised = exported(classifier, name, levels, tmp_path)(levels)
    assert torch.equal(normalised, expected(classifier, levels))
    assert len(normalised.unique()) == 256  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "views"), [("onnx", "crops+flip"), ("torch_export", "flip")])
def test_views_are_averaged_as_the_checkpoint_does(name: str, views: Views, digits: Digits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ConvNet(1, (8, 8), 10, channels=(8,))
    images = scans(digits)
    plain = classifier_of(network, digits)
    classifier = classifier_of(network, digits, test_time_augmentation=views)
    found = exported(classifier, name, images, tmp_path)(images)
    assert torch.allclose(found, expected(classifier, images), atol=1e-5)
    assert not torch.allclose(found.softmax(1), expected(plain, images).softmax(1), atol=1e-4)


@pytest.mark.slow
def test_facts_are_in_every_format(digits: Digits, tmp_path: Path) -> None:
    classifier = classifier_of(MLP(64, 10), digits)
    trained = trained_network(classifier, digits)
    trained.class_names = ["Käse", "a\x1b[2J", *"cdefghij"]
    trained.checkpoint["hyper_parameters"]["network"] = {"class_path": "models.mlp.MLP"}
    facts = facts_of(trained)
    model, images = model_of(classifier), scans(digits)
    for name, format_ in FORMATS.items():
        format_.write(model, images[:2], tmp_path / name, facts)
    session = onnxruntime.InferenceSession(tmp_path / "onnx")
    with safe_open(tmp_path / "safetensors", "pt") as weights:
        stored = weights.metadata()
        assert set(weights.keys()) == set(classifier.network.state_dict())
    extra = {"facts.json": ""}
    torch.export.load(tmp_path / "torch_export", extra_files=extra)
    found = [
        {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()},
        {key: json.loads(value) for key, value in stored.items()},
        json.loads(extra["facts.json"]),
    ]
    for each in found:
        assert each["class_names"] == ["Käse", "a\\x1b[2J", *"cdefghij"]
        assert each["network"]["class_path"] == "models.mlp.MLP"
        for fact in ("channels", "image_size", "resize", "mean", "std"):
            assert each[fact] == digits.preprocessing[fact]
    assert "uint8" in found[0]["input"]
    assert "float32" in found[1]["input"]
    assert [each["output"] for each in found] == [found[0]["output"]] * 3
    assert found[0]["output"].startswith("logits")


@pytest.mark.slow
def test_inputs_and_outputs_have_names_and_a_free_batch(digits: Digits, tmp_path: Path) -> None:
    exported(classifier_of(MLP(64, 10), digits), "onnx", scans(digits), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape, images.type) == ("images", ["B", 1, 8, 8], "tensor(uint8)")
    assert (logits.name, logits.shape, logits.type) == ("logits", ["B", 10], "tensor(float)")


@pytest.mark.slow
def test_the_classifier_is_left_as_it_is(digits: Digits, tmp_path: Path) -> None:
    classifier = classifier_of(ConvNet(1, (8, 8), 10, channels=(4,)), digits, channels_last=True)
    before = copy.deepcopy(classifier.state_dict())
    for name in FORMATS:
        exported(classifier, name, scans(digits), tmp_path)
    for key, value in classifier.state_dict().items():
        assert torch.equal(value, before[key])
        assert value.stride() == before[key].stride()
    assert classifier.training
    assert all(parameter.requires_grad for parameter in classifier.parameters())


class ByValue(nn.Module):
    """Decides by what is in the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


class OneByOne(nn.Module):
    """Loops over the images."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([image.flatten() for image in images])


class Eigenvalues(nn.Module):
    """Computes what ONNX has no operator for."""

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(images[:, 0] + images[:, 0].mT)
        return values


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "name", "words"),
    [
        (ByValue(), "onnx", "ByValue cannot be exported: Could not guard on data-dependent"),
        (ByValue(), "torch_export", "ByValue cannot be exported: Could not guard on data-dependent"),
        (OneByOne(), "torch_export", "OneByOne cannot be exported: You marked B as dynamic but your code specialized"),
        (Eigenvalues(), "onnx", "to ONNX: No ONNX function found for .*_linalg_eigh.*; try --format torch_export"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_sentence(
    network: nn.Module, name: str, words: str, digits: Digits, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=words) as raised:
        exported(classifier_of(network, digits, 64), name, scans(digits), tmp_path)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_what_is_too_large_for_one_onnx_file_is_refused(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.inference.export_formats.LARGEST_ONNX", 1000)
    with pytest.raises(ExportError, match=r"more than 0\.0 GB of weights, .* export it with --format torch_export"):
        exported(classifier_of(MLP(64, 10), digits), "onnx", scans(digits), tmp_path)


def test_what_is_no_tensor_stays_out_of_safetensors(digits: Digits, tmp_path: Path) -> None:
    model, path = model_of(classifier_of(NoisyConvNet(1, (8, 8), 10), digits)), tmp_path / "model.safetensors"
    model.network.get_submodule("noise").calls = 3  # type: ignore[assignment]
    FORMATS["safetensors"].write(model, scans(digits), path, {})
    read = FORMATS["safetensors"].open(path, model)
    assert isinstance(read, ExportedModel)
    assert read.network.get_submodule("noise").calls == 3
    assert torch.equal(read.network.get_parameter("stages.0.weight"), model.network.get_parameter("stages.0.weight"))


def test_without_the_packages_of_a_format_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.inference.export_formats.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx, onnxscript, onnxruntime, .* run pip install -e '\.\[export\]'"):
        FORMATS["onnx"].check_is_installed()
    FORMATS["torch_export"].check_is_installed()
