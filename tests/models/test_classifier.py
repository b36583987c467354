import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from core.user_error import UserError
from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from models.mlp import MLP
from scripts.train import main
from tests.conftest import Run, quiet_trainer


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def trainer(folder: Path) -> Trainer:
    return quiet_trainer(folder, max_epochs=1)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
def test_figures_are_those_of_the_predictions(digits: Digits, tmp_path: Path, precision: str) -> None:
    classifier = Classifier(MLP(64, 10), 10, sgd)
    fitted = quiet_trainer(tmp_path, max_epochs=1, precision=precision)
    fitted.fit(classifier, digits)
    (figures,) = fitted.test(classifier, digits, verbose=False)

    batches = fitted.predict(classifier, digits)
    assert batches is not None
    probabilities = torch.cat(batches).double().softmax(dim=1)  # type: ignore[arg-type]
    labels = digits.pack.labels[digits.splits["test"]]  # type: ignore[union-attr]
    assert figures["test/accuracy"] == pytest.approx(accuracy_score(labels, probabilities.argmax(dim=1)), abs=1e-7)
    assert figures["test/loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-6)


@pytest.mark.slow
def test_loads_from_a_checkpoint_alone(train: Callable[..., Run], digits: Digits) -> None:
    run = train("--trainer.max_epochs=2", "--model.network.activation=torch.nn.Tanh")
    classifier = Classifier.load_from_checkpoint(run.best).eval()
    assert classifier.class_names == list("0123456789")
    assert classifier.preprocessing == {
        "channels": 1,
        "image_size": [8, 8],
        "resize": "crop",
        "mean": pytest.approx([0.305], abs=0.01),
        "std": pytest.approx([0.376], abs=0.01),
    }
    assert isinstance(classifier.network, ConvNet)
    assert any(isinstance(layer, nn.Tanh) for layer in classifier.network.modules())
    images, labels = digits.on_after_batch_transfer(digits.pack[digits.splits["test"]], 0)  # type: ignore[index]
    accuracy = (classifier(images).argmax(dim=1) == labels).float().mean()
    assert float(accuracy) == pytest.approx(run.results["metrics"]["test/accuracy"], abs=1e-6)


def test_built_in_python_loads_around_the_network_given_again(digits: Digits, tmp_path: Path) -> None:
    classifier = Classifier(MLP(64, 10), 10, sgd)
    fitted = trainer(tmp_path)
    fitted.fit(classifier, digits)
    fitted.save_checkpoint(tmp_path / "python.ckpt")
    with pytest.raises(UserError, match="give the network again"):
        Classifier.load_from_checkpoint(tmp_path / "python.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "python.ckpt", network=MLP(64, 10), optimizer=sgd)
    assert all(torch.equal(value, classifier.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.slow
def test_refuses_data_with_other_classes(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = train("--trainer.max_epochs=1")
    monkeypatch.setattr(Digits, "class_names", tuple("abcdefghij"))
    with pytest.raises(SystemExit):
        train("--ckpt_path", str(run.last))


def test_refuses_a_network_of_another_shape(digits: Digits, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MLP gives \[64, 7\] for 64 images; expected .*\[64, 10\]"):
        trainer(tmp_path).fit(Classifier(MLP(64, 7), 10, sgd), digits)


class Several(ConvNet):
    """Gives more than logits."""

    def __init__(self, kind: str) -> None:
        super().__init__(1, (8, 8), 10)
        self.kind = kind

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        kinds = {"tuple": (logits, images), "dict": {"logits": logits}, "list": [logits], "detached": logits.detach()}
        return kinds[self.kind]


@pytest.mark.parametrize("kind", ["tuple", "dict", "list"])
def test_a_network_that_gives_more_than_logits_is_named(kind: str) -> None:
    classifier = Classifier(Several(kind), 10, torch.optim.Adam)
    with pytest.raises(UserError, match=rf"Several gives a {kind} for 2 images; expected logits alone"):
        classifier(torch.zeros(2, 1, 8, 8))


def test_a_network_of_which_nothing_is_trained_is_named(digits: Digits, tmp_path: Path) -> None:
    classifier = Classifier(Several("detached"), 10, torch.optim.Adam)
    with pytest.raises(UserError, match="No parameter of Several is trained"):
        quiet_trainer(tmp_path, max_epochs=1).fit(classifier, digits)


def test_a_single_image_that_batch_norm_cannot_take_is_one_sentence(
    refused: Callable[..., str], data_root: Path, tmp_path: Path
) -> None:
    network = ("--model.network=models.resnet.ResNet", "--model.network.channels=[4,4,4,4]")
    places = ("--runs", tmp_path / "runs", "--data.root", data_root)
    sentence = refused("fit", *network, "--model.network.blocks=[1,1,1,1]", "--data.batch_size=1", *places)
    assert "Batch norm cannot compute a variance from a batch of a single image; leave out the last" in sentence


def test_compiled_keys_are_those_of_the_plain_network_and_each_size_of_batch_has_its_own_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[tuple[nn.Module, bool]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network, dynamic: compiled.append((network, dynamic)))
    plain, other = (Classifier(MLP(64, 10), 10, sgd, compile=compile_) for compile_ in (False, True))
    assert compiled == [(other.network, False)]
    assert plain.state_dict().keys() == other.state_dict().keys()


def test_channels_last_changes_nothing_but_the_memory_format() -> None:
    network, images = ConvNet(3, (8, 8), 10).eval(), torch.randn(4, 3, 8, 8)
    plain = network(images)
    formats: list[bool] = []

    def spy(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    network.stages[0].register_forward_pre_hook(spy)
    classifier = Classifier(network, 10, sgd, channels_last=True)
    assert torch.allclose(classifier(images), plain, atol=1e-5)
    assert formats == [True]


def one_step_loss(digits: Digits, **arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of one batch, its logits and labels."""
    torch.manual_seed(0)
    classifier = Classifier(MLP(64, 10), 10, sgd, **arguments)
    classifier.trainer = Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False)
    classifier.trainer.datamodule = digits  # type: ignore[attr-defined]
    classifier.setup("fit")
    assert digits.pack is not None
    images, labels = digits.transform(digits.pack[digits.splits["train"]], training=False)
    return classifier.training_step((images, labels), 0).detach(), classifier(images).detach(), labels


def test_balanced_weights_give_every_class_the_same_say(digits: Digits) -> None:
    loss, logits, labels = one_step_loss(digits, class_weights="balanced")
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    of_classes = [each[labels == label].mean() for label in range(10)]
    assert float(loss) == pytest.approx(float(torch.stack(of_classes).mean()), rel=1e-5)


def test_given_weights_count_as_they_are(digits: Digits) -> None:
    weights = [float(label) for label in range(10)]
    loss, logits, labels = one_step_loss(digits, class_weights=weights)
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    assert float(loss) == pytest.approx(float((each * labels).mean()), rel=1e-5)


@pytest.mark.parametrize(
    "weights", [[1.0] * 9, [-1.0] + [1.0] * 9, [], [0.0] * 10, [1.0] * 9 + [math.nan], [1.0] * 9 + [math.inf]]
)
def test_refuses_weights_that_are_not_one_for_each_class(weights: list[float]) -> None:
    with pytest.raises(UserError, match=r"model\.class_weights is .*; give 10 finite numbers of at least 0"):
        Classifier(MLP(64, 10), 10, sgd, class_weights=weights)


def test_balanced_weights_need_data_that_know_their_counts(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(torch.rand(4, 1, 8, 8), torch.arange(4)))
    with pytest.raises(UserError, match=r"has no class_counts; give numbers"):
        trainer(tmp_path).fit(Classifier(MLP(64, 10), 10, sgd, class_weights="balanced"), loader, loader)


@pytest.mark.slow
def test_views_are_averaged_in_test_and_predict_alone(
    train: Callable[..., Run], digits: Digits, tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=2", "--model.test_time_augmentation=flip")
    classifier = Classifier.load_from_checkpoint(run.best)
    plain = Classifier.load_from_checkpoint(run.best, test_time_augmentation=None)
    labels = digits.pack.labels[digits.splits["test"]]  # type: ignore[union-attr]
    batches = trainer(tmp_path).predict(plain, digits)
    assert batches is not None
    alone: Tensor = torch.cat(batches)  # type: ignore[arg-type]
    batches = trainer(tmp_path).predict(classifier, digits)
    assert batches is not None
    both: Tensor = torch.cat(batches)  # type: ignore[arg-type]
    assert not torch.equal(alone, both)
    (validated,), (again,) = (trainer(tmp_path).validate(model, digits, verbose=False) for model in (plain, classifier))
    assert validated == again
    assert run.results["metrics"]["test/accuracy"] == pytest.approx(
        accuracy_score(labels, both.argmax(dim=1)), abs=1e-7
    )
    assert torch.allclose(both.exp().sum(dim=1), torch.ones(len(both)), atol=1e-5)


def parameters_of(run: Run) -> Tensor:
    state = run.checkpoint["state_dict"]
    return torch.cat([state[name].flatten() for name in state if name.endswith(("weight", "bias"))])


@pytest.mark.slow
def test_gradients_are_clipped_from_the_command_line(train: Callable[..., Run]) -> None:
    flags = ["--trainer.max_steps=1", "--model.optimizer=torch.optim.SGD", "--model.scheduler=null"]
    flags += ["--trainer.gradient_clip_val=0.01", "--trainer.accumulate_grad_batches=2"]
    before, after = (parameters_of(train(*flags, f"--model.optimizer.lr={lr}")) for lr in (0.0, 1.0))
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.slow
def test_a_checkpoint_with_class_names_as_they_were_read_goes_on_and_is_tested(
    train: Callable[..., Run],
    resume: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As earlier versions have written it: names twice, and some that are no text."""
    names = ["crane", "caf\udce9", "crane", *"3456789"]
    read = cached_property(lambda _: names)
    read.__set_name__(Digits, "class_names")
    monkeypatch.setattr(Digits, "class_names", read)
    run = train("--trainer.max_epochs=1")
    assert "10 classes (crane, caf\\xe9, crane (2), 3, 4, 5, 6, 7, 8, 9)" in capsys.readouterr().out.splitlines()[0]
    for file in (run.best, run.last):
        checkpoint = torch.load(file, weights_only=True)
        torch.save(checkpoint | {"class_names": names}, file)
    main(["test", "--ckpt_path", str(run.best)])
    resume(run, "--trainer.max_epochs=2")
    for file in (run.best, run.last):
        assert torch.load(file, weights_only=True)["class_names"] == ["crane", "caf\\xe9", "crane (2)", *"3456789"]
