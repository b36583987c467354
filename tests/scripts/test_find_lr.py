import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.whitening import whitening_kernels
from core.user_error import UserError
from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from models.mlp import MLP
from scripts.find_lr import DIVERGED, FEWEST_STEPS, UNSETTLED, RangeTest, main, smooth, suggest
from tests.conftest import Run


@pytest.fixture
def find_lr(tmp_path: Path, data_root: Path) -> Callable[..., None]:
    def run(*flags: str) -> None:
        places = ["--runs", str(tmp_path / "runs"), "--data.root", str(data_root)]
        main([*flags, *places, "--output", str(tmp_path / "lr.png")])

    return run


@pytest.fixture
def refused_test(
    find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Runs the test on a user's mistake, and gives the one sentence that it answers."""

    def run(*flags: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            find_lr(*flags)
        assert exit_.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert not list(tmp_path.iterdir())
        return error

    return run


@pytest.mark.slow
def test_training_afterwards_is_unchanged(
    train: Callable[..., Run], find_lr: Callable[..., None], tmp_path: Path
) -> None:
    flags = ("--trainer.max_epochs=2", "--model.network.dropout=0.1")
    before = train(*flags)
    files = set(tmp_path.rglob("*"))
    find_lr(*flags, "--steps=60", "--max_lr=1")
    made = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - files}
    assert {re.sub(r"\d{4}-.*", "", path) for path in made} == {
        *("lr.png", "runs/digits-convnet/range-test", "runs/digits-convnet/range-test/")
    }
    after = train(*flags)
    weights = before.checkpoint["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in after.checkpoint["state_dict"].items())
    assert after.results["metrics"] == before.results["metrics"]


@pytest.mark.slow
def test_prints_the_suggestion_with_its_rule_and_draws_the_curve(
    find_lr: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find_lr("--min_lr=1e-5", "--experiment=mine")
    out = capsys.readouterr().out
    found = re.search(
        r"^suggestion  (\S+) \(steepest descent of the smoothed loss\); a tenth of the minimum's: (\S+)$", out, re.M
    )
    assert found
    assert 3e-4 < float(found[1]) < 1e-2
    folder = Path(re.search(r"^TensorBoard (.+)$", out, re.M)[1])  # type: ignore[index]
    assert folder.parent == tmp_path / "runs" / "mine" / "range-test"
    events = EventAccumulator(str(folder)).Reload()
    (picture,) = events.Images("range_test")
    with Image.open(tmp_path / "lr.png") as drawn:
        assert drawn.convert("RGB") == Image.open(io.BytesIO(picture.encoded_image_string)).convert("RGB")


@pytest.mark.slow
def test_few_images_are_shown_again(find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    find_lr("--data.limit=200", "--trainer.accumulate_grad_batches=2", "--model.network.batch_norm=false")
    assert "suggestion" in capsys.readouterr().out


@pytest.mark.slow
def test_a_schedule_and_its_momentum_are_left_out(
    find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    one_cycle = ("--model.scheduler=torch.optim.lr_scheduler.OneCycleLR", "--model.scheduler.max_lr=0.01")
    said = []
    for flags in (one_cycle, ("--model.scheduler=null",)):
        find_lr(*flags, "--min_lr=1e-4", "--max_lr=0.1", "--steps=60")
        said.append(re.findall("suggestion .*", capsys.readouterr().out))
    assert said[0] == said[1] != []


@pytest.mark.slow
def test_cached_features_give_the_same_suggestion(
    find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cache = ("--feature_cache=callbacks.feature_cache.FeatureCache", f"--feature_cache.folder={tmp_path / 'features'}")
    network = (
        "--model.network=models.resnet.ResNet",
        "--model.network.channels=[4, 8]",
        "--model.network.blocks=[1, 1]",
    )
    said = []
    for more in ((), cache):
        find_lr(*network, "--model.freeze=[backbone]", "--min_lr=1e-4", "--steps=120", *more)
        out = capsys.readouterr().out
        assert ("Training the head on features" in out) == bool(more)
        said.append(re.findall("suggestion .*", out))
    assert said[0] == said[1] != []


@pytest.mark.slow
def test_a_whitened_layer_is_whitened(
    find_lr: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whitened: list[int] = []

    def note(images: Tensor, size: tuple[int, int], number: int) -> Tensor:
        whitened.append(number)
        return whitening_kernels(images, size, number)

    monkeypatch.setattr("callbacks.whitening.whitening_kernels", note)
    network = ("--model.network=models.airbench.AirbenchNet", "--model.network.channels=[8]")
    for callbacks in ("[{class_path: callbacks.whitening.Whitening}]", "[]"):
        find_lr(*network, "--model.freeze=[whitening]", "--steps=60", "--min_lr=1e-4", "--trainer.callbacks", callbacks)
        assert "suggestion " in capsys.readouterr().out
        assert whitened == [8]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--min_lr=1e4", "--max_lr=1e5", "--model.optimizer=torch.optim.SGD"], "falls at no learning rate"),
        (["--min_lr=1e-9", "--max_lr=1e-8", "--steps=30"], "falls at no learning rate"),
        (["--min_lr=1", "--max_lr=0.1"], "--min_lr is 1 and --max_lr 0.1; give positive numbers, the second larger."),
        (["--steps=3"], "--steps is 3; give a whole number of at least 30."),
        (["--data.batch_size=0"], "data.batch_size is 0"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(refused_test: Callable[..., str], flags: list[str], words: str) -> None:
    assert words in refused_test(*flags)


def test_an_unwritable_picture_is_named_before_any_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--output", str(tmp_path / "none" / "lr.png"), "--data.root", str(tmp_path / "nowhere")])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "choose another file with --output" in said.err


LRS = [float(lr) for lr in np.geomspace(1e-6, 1, 100)]


def train_with(test: RangeTest, model: LightningModule, data: Digits, folder: Path, **arguments: Any) -> Trainer:
    settings: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings |= {"enable_checkpointing": False, "limit_val_batches": 0, "max_epochs": -1}
    trainer = Trainer(
        default_root_dir=folder, callbacks=[test.callback()], max_steps=len(test.lrs), **{**settings, **arguments}
    )
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
    train_with(test, model, digits, tmp_path)
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
    train_with(RangeTest(1e-5, 1e-2, 30), model, digits, tmp_path)
    assert model.seen == pytest.approx([0.005, 0.01])
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("stages."), name


def test_a_step_of_accumulated_batches_has_their_mean_loss_in_short_steps_too(digits: Digits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MLP(64, 10)
    test = RangeTest(1e-12, 1e-11, FEWEST_STEPS)
    train_with(test, Classifier(network, 10, sgd), digits, tmp_path, accumulate_grad_batches=4)
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
    train_with(test, Classifier(MLP(64, 10), 10, sgd), digits, tmp_path)
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
