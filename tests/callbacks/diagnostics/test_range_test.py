import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn import functional as F

from callbacks.diagnostics.range_test import DIVERGED, FEWEST_STEPS, UNSETTLED, RangeTest, smooth, suggest
from core.user_error import UserError
from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from models.mlp import MLP

LRS = [float(lr) for lr in np.geomspace(1e-6, 1, 100)]


def run(test: RangeTest, model: LightningModule, data: Digits, folder: Path, **arguments: Any) -> Trainer:
    settings: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"enable_checkpointing": False, "limit_val_batches": 0, "max_epochs": -1}
    trainer = Trainer(default_root_dir=folder, callbacks=[test], max_steps=len(test.lrs), **{**settings, **arguments})
    trainer.fit(model, data)
    return trainer


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class Grouped(Classifier):
    """Layers with rates of their own, noted at each step."""

    def configure_optimizers(self) -> Any:
        first, *_, last = (layer for layer in self.network.modules() if isinstance(layer, nn.Linear))
        self.seen: list[list[float]] = []
        groups: list[dict[str, Any]] = [{"params": first.parameters(), "lr": 0.01}, {"params": last.parameters()}]
        return torch.optim.SGD(groups, lr=0.1)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        super().optimizer_step(*args, **kwargs)


def test_every_step_has_the_next_rate_and_groups_keep_their_proportions(digits: Digits, tmp_path: Path) -> None:
    model = Grouped(MLP(64, 10), 10, sgd)
    test = RangeTest(1e-5, 1e-2, 50)
    run(test, model, digits, tmp_path)
    seen = np.array(model.seen)
    assert seen[:, 1] == pytest.approx(np.geomspace(1e-5, 1e-2, 50))
    assert seen[:, 0] == pytest.approx(seen[:, 1] / 10)
    assert len(test.losses) == 50


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")  # what is frozen, as it should be
def test_leaves_alone_what_is_frozen_and_slows_the_layers(digits: Digits, tmp_path: Path) -> None:
    class Noted(Classifier):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            self.seen = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
            super().optimizer_step(*args, **kwargs)

    network = ConvNet(1, (8, 8), 10, channels=[4, 8], head_sizes=[16])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = Noted(network, 10, sgd, freeze=["stages"], layer_decay=0.5)
    run(RangeTest(1e-5, 1e-2, 30), model, digits, tmp_path)
    assert model.seen == pytest.approx([0.005, 0.01])
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("stages."), name


def test_a_step_of_accumulated_batches_has_their_mean_loss_in_short_steps_too(digits: Digits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MLP(64, 10)
    test = RangeTest(1e-12, 1e-11, FEWEST_STEPS)
    run(test, Classifier(network, 10, sgd), digits, tmp_path, accumulate_grad_batches=4)
    # The rates are too small to change anything: the losses are those of the network as it was.
    digits.trainer = None
    batches = [digits.transform(batch, training=False) for batch in digits.train_dataloader()]
    with torch.no_grad():
        losses = [float(F.cross_entropy(network(images), labels)) for images, labels in batches]
    assert len(losses) == 21
    expected = [np.mean(losses[start : start + 4]) for start in range(0, 21, 4)]
    assert test.losses[:6] == pytest.approx(expected, abs=1e-4)


def test_stops_where_the_loss_diverges(digits: Digits, tmp_path: Path) -> None:
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    test = RangeTest(1e-3, 1e6, 200, count)
    run(test, Classifier(MLP(64, 10), 10, sgd), digits, tmp_path)
    assert UNSETTLED < len(test.losses) == steps < 200
    assert not test.losses[-1] < DIVERGED * min(test.losses)
    assert test.lrs[len(test.losses) - 1] > suggest(test.lrs, test.losses)[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.1, 0.1, 100), "--min_lr is 0.1 and --max_lr 0.1"),
        ((0.0, 0.1, 100), "--min_lr is 0"),
        ((-1.0, 0.1, 100), "--min_lr is -1"),
        ((0.1, math.inf, 100), "--max_lr inf"),
        ((math.nan, 1.0, 100), "--min_lr is nan"),
        ((0.1, 1.0, 29), "--steps is 29; give a whole number of at least 30"),
    ],
)
def test_refuses_what_makes_no_range(arguments: tuple[float, float, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        RangeTest(*arguments)


def test_smoothing_shifts_nothing_and_keeps_a_constant() -> None:
    assert [round(loss, 3) for loss in smooth([2.0, 2.0, 1.0])] == [1.738, 1.692, 1.59]
    assert smooth([3.0] * 20) == pytest.approx([3.0] * 20)
    peak = [1.0] * 51
    peak[25] = 1.2
    smoothed = smooth(peak)
    assert int(np.argmax(smoothed)) == 25
    assert smoothed == pytest.approx(smoothed[::-1])
    assert len(smooth([1.0, 2.0, math.inf])) == 2


def test_suggests_where_a_known_curve_is_steepest() -> None:
    rng = np.random.default_rng(0)
    logs = np.log10(LRS)
    # Falls as a logistic function around 1e-3, lowest near 1e-2, and rises behind.
    curve = 2.3 - 2 / (1 + np.exp(-6 * (logs + 3))) + 3 * np.clip(logs + 2, 0, None)
    steepest, minimum_tenth = suggest(LRS, (curve + rng.normal(0, 0.03, 100)).tolist())
    assert steepest == pytest.approx(1e-3, rel=0.35)
    assert minimum_tenth == pytest.approx(7e-4, rel=0.5)


@pytest.mark.parametrize(
    "losses",
    [
        [2.3, 40.0, math.inf],
        [2.3 + 0.05 * step for step in range(40)],
        [2.3 + 0.05 * math.sin(step) for step in range(100)],
        [math.nan],
        [],
    ],
    ids=["diverges at once", "rises", "stays", "is no number", "is missing"],
)
def test_says_why_it_suggests_nothing(losses: list[float]) -> None:
    with pytest.raises(UserError, match=rf"falls at no learning rate .* in {len(losses)} steps, it goes from "):
        suggest(LRS, losses)
