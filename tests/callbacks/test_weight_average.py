from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from callbacks.ema import EMA
from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from models.serialization.checkpoint import read_checkpoint
from tests.conftest import Run, quiet_trainer

KINDS = {
    "EMA": ("--weight_average=callbacks.ema.EMA",),
    "SWA": ("--weight_average=callbacks.swa.SWA", "--weight_average.start=1"),
}
SHORT = ("--trainer.max_epochs=3", "--early_stopping=null", "--data.batch_size=128")

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@torch.no_grad()
def figures(classifier: Classifier, digits: Digits, split: str) -> dict[str, Any]:
    assert digits.pack is not None
    images, labels = digits.transform(digits.pack[digits.splits[split]], training=False)
    probabilities = classifier.eval()(images).double().softmax(dim=1)
    return {
        f"{split}/accuracy": pytest.approx(accuracy_score(labels, probabilities.argmax(dim=1)), abs=1e-6),
        f"{split}/loss": pytest.approx(log_loss(labels, probabilities), rel=1e-4),
    }


@pytest.mark.slow
@every_kind
def test_what_is_loaded_is_what_was_validated_and_tested(
    train: Callable[..., Run], digits: Digits, kind: tuple[str, ...]
) -> None:
    run = train(*SHORT, *kind)
    for file in (run.best, run.last):
        checkpoint = read_checkpoint(file)
        validated = checkpoint["progress"]["metrics"]
        classifier = Classifier.load_from_checkpoint(file)
        for name, value in figures(classifier, digits, "val").items():
            assert validated[name] == value
        if file == run.best:
            for name, value in figures(classifier, digits, "test").items():
                assert run.results["metrics"][name] == value
        raw = checkpoint["raw_state_dict"]
        assert raw.keys() == classifier.state_dict().keys() & {name for name in raw if name.startswith("network.")}
        averaged = classifier.state_dict()["network.head.1.weight"]
        assert file == run.best or not torch.equal(raw["network.head.1.weight"], averaged)  # the best may be the first


@pytest.mark.slow
@every_kind
def test_training_is_what_it_is_without(train: Callable[..., Run], kind: tuple[str, ...]) -> None:
    plain, averaged = train(*SHORT), train(*SHORT, *kind)
    for name, value in averaged.checkpoint["raw_state_dict"].items():
        assert torch.equal(value, plain.checkpoint["state_dict"][name]), name
    figure = "train/loss"
    assert averaged.results["metrics"][figure] == plain.results["metrics"][figure]


@pytest.mark.slow
def test_may_be_taken_up_left_out_and_changed_when_resuming(train: Callable[..., Run]) -> None:
    ema, swa = KINDS.values()
    first = train(*SHORT, *ema)
    longer = ("--ckpt_path", str(first.last), "--trainer.max_epochs=4")
    without = train(*longer, "--weight_average=null")
    assert "raw_state_dict" not in without.checkpoint
    changed = train(*longer, *swa)
    assert changed.checkpoint["callbacks"]["SWA"] == {"updates": 1}
    same = train(*longer)
    assert same.checkpoint["callbacks"]["EMA"] == {"updates": 4 * 11}
    for name, value in same.checkpoint["raw_state_dict"].items():
        assert torch.equal(value, changed.checkpoint["raw_state_dict"][name])
    taken_up = train("--ckpt_path", str(without.last), "--trainer.max_epochs=5", *ema)
    assert taken_up.checkpoint["callbacks"]["EMA"] == {"updates": 11}


def trained_on(digits: Digits, folder: Path) -> tuple[Trainer, Classifier]:
    classifier = Classifier(ConvNet(1, (8, 8), 10), 10, lambda groups: torch.optim.SGD(groups, lr=0.01))
    trainer = quiet_trainer(folder, max_epochs=1, callbacks=[EMA()])
    trainer.fit(classifier, digits)
    return trainer, classifier


def test_the_network_holds_the_average_after_training(digits: Digits, tmp_path: Path) -> None:
    trainer, classifier = trained_on(digits, tmp_path)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    saved = read_checkpoint(tmp_path / "after.ckpt")
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, saved["state_dict"][name])
    before = trainer.callback_metrics["val/loss"]
    trainer.validate(classifier, digits, verbose=False)
    assert trainer.callback_metrics["val/loss"] == before
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, saved["state_dict"][name])


def test_a_shared_weight_is_averaged_under_each_of_its_names(digits: Digits, tmp_path: Path) -> None:
    one, other = nn.Linear(64, 64), nn.Linear(64, 64)
    other.weight = one.weight
    network = nn.Sequential(nn.Flatten(), one, other, nn.Linear(64, 10))
    classifier = Classifier(network, 10, lambda groups: torch.optim.SGD(groups, lr=0.01))
    trainer = quiet_trainer(tmp_path, max_epochs=1, callbacks=[EMA()])
    trainer.fit(classifier, digits)
    trainer.save_checkpoint(tmp_path / "shared.ckpt")
    saved = read_checkpoint(tmp_path / "shared.ckpt")["state_dict"]
    assert torch.equal(saved["network.1.weight"], saved["network.2.weight"])
    assert torch.equal(saved["network.1.weight"], one.weight)
