from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from callbacks.early_stopping import EarlyStopping
from datamodules.digits import Digits
from models.classifier import Classifier
from models.resnet import ResNet
from models.schedule import WarmupCosine
from models.training.fine_tuning import FineTuning
from scripts.training.dry_run import DryRun
from tests.conftest import Run, quiet_trainer
from tests.datamodules.test_base import assert_equal

pytestmark = pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")  # the backbone, as it should be

RESNET = (
    *("--model.network=models.resnet.ResNet", "--model.network.channels=[4, 8]", "--model.network.blocks=[1, 1]"),
    *("--data.batch_size=256", "--trainer.precision=32-true"),
)
FINETUNE = (*RESNET, "--model.finetune.head_epochs=2", "--trainer.max_epochs=4")


class Rates(Callback):
    """Notes the rates of each step, and the weights before each epoch."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def classifier(finetune: FineTuning, schedule: Callable[..., LRScheduler] | None = WarmupCosine) -> Classifier:
    torch.manual_seed(0)
    network = ResNet(10, in_channels=1, channels=[4, 8], blocks=[1, 1])
    return Classifier(network, 10, partial(SGD, lr=0.5), schedule, finetune=finetune)


def rates_of(schedule: LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return rates


def optimizer(lr: float) -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_the_schedule_runs_in_each_stage_with_the_rate_of_the_stage() -> None:
    staged = rates_of(FineTuning(1, 0.1).schedule(WarmupCosine, optimizer(0.5), 10, 30), 30)
    head, whole = (rates_of(WarmupCosine(optimizer(lr), steps), steps) for lr, steps in ((0.5, 10), (0.1, 20)))
    assert staged == pytest.approx([*head, *whole])


@pytest.mark.parametrize(("lr", "peak"), [(None, 0.5 / 30), (0.02, 0.02)])
def test_trains_the_head_and_then_everything_with_rates_that_fall_layer_by_layer(
    lr: float | None, peak: float, data_root: Path, tmp_path: Path
) -> None:
    watched, model = Rates(), classifier(FineTuning(1, lr, layer_decay=0.5))
    quiet_trainer(tmp_path, max_epochs=3, callbacks=[watched]).fit(model, Digits(root=data_root, batch_size=256))
    first, second, third = watched.weights
    changed = [
        {name.split(".")[1] for name in before if name.startswith("network") and not before[name].equal(after[name])}
        for before, after in ((first, second), (second, third))
    ]
    assert changed == [{"head"}, {"backbone", "head"}]
    assert all(third[name].equal(first[name]) for name in first if "running" in name), "statistics are kept"
    head, whole = watched.rates[:6], watched.rates[6:]
    for rates, rate in ((head, 0.5), (whole, peak)):
        assert [each[-1] for each in rates] == pytest.approx(
            rates_of(WarmupCosine(optimizer(rate), len(rates)), len(rates))
        )
    layers = len(whole[0])
    assert layers > 3
    assert whole[3] == pytest.approx([whole[3][-1] * 0.5**depth for depth in range(layers)][::-1])


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_in_each_stage_and_between_them(train: Callable[..., Run], tmp_path: Path) -> None:
    saver = "lightning.pytorch.callbacks.ModelCheckpoint"
    more = ("--weight_average=callbacks.ema.EMA", "--trainer.gradient_clip_val=0.5", "--early_stopping=null")
    cache = "--feature_cache=callbacks.feature_cache.FeatureCache"
    each = f"init_args: {{every_n_train_steps: 2, save_top_k: -1, dirpath: {tmp_path / 'steps'}}}"
    epochs = (
        f"init_args: {{every_n_epochs: 1, save_top_k: -1, dirpath: {tmp_path / 'steps'}, filename: 'end-{{step}}'}}"
    )
    whole = train(
        *(*FINETUNE, *more, cache),
        *(f"--trainer.callbacks+={{class_path: {saver}, {arguments}}}" for arguments in (each, epochs)),
    )
    without = train(*FINETUNE, *more)
    for name, value in whole.checkpoint["state_dict"].items():
        assert torch.allclose(without.checkpoint["state_dict"][name], value, rtol=1e-3, atol=1e-5), name
    names = {place.name for place in (tmp_path / "steps").glob("*.ckpt")}
    assert {"epoch=0-step=4.ckpt", "end-step=6.ckpt", "end-step=12.ckpt", "epoch=2-step=14.ckpt"} <= names
    for name in ("epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "end-step=12.ckpt", "epoch=2-step=14.ckpt"):
        resumed = train("--ckpt_path", str(tmp_path / "steps" / name), "--trainer.callbacks=null")
        for part in ("state_dict", "raw_state_dict", "optimizer_states", "lr_schedulers"):
            assert_equal(resumed.checkpoint[part], whole.checkpoint[part], f"{name}: {part}")
        assert resumed.results["metrics"] == whole.results["metrics"]


@pytest.mark.slow
def test_two_processes_train_as_one(train: Callable[..., Run], train_in_two_processes: Callable[..., Run]) -> None:
    flags = (
        *(*FINETUNE, "--data.drop_last=true", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"),
        "--feature_cache=callbacks.feature_cache.FeatureCache",
    )
    one = train(*flags, "--data.batch_size=128")
    strategy = "--trainer.strategy=ddp_find_unused_parameters_true"
    two = train_in_two_processes(*flags, "--data.batch_size=64", strategy)
    assert one.results["steps"] == two.results["steps"]
    for name, value in one.checkpoint["state_dict"].items():
        if name.startswith("network"):
            assert torch.allclose(two.checkpoint["state_dict"][name], value, rtol=1e-3, atol=1e-5), name


@pytest.mark.slow
def test_the_end_of_the_first_stage_stays_where_it_was(train: Callable[..., Run], resume: Callable[..., Run]) -> None:
    run = train(*FINETUNE, "--trainer.max_steps=14", "--early_stopping=null")
    again = resume(run, "--trainer.max_steps=-1", "--data.batch_size=128")
    (schedule,) = again.checkpoint["lr_schedulers"]
    assert schedule["head_steps"] == 12
    assert schedule["total_steps"] == again.results["steps"] > 24


def test_early_stopping_counts_from_the_second_stage_on(data_root: Path, tmp_path: Path) -> None:
    stopping = EarlyStopping(patience=1, monitor="train/loss", mode="max")
    trainer = quiet_trainer(tmp_path, max_epochs=9, callbacks=[stopping])
    trainer.fit(classifier(FineTuning(4)), Digits(root=data_root, batch_size=256))
    assert 5 <= trainer.current_epoch < 9


def test_a_range_test_is_of_the_first_stage(data_root: Path) -> None:
    watched = Rates()
    flags = [*FINETUNE, "--data.root", str(data_root), "--data.limit=200"]
    DryRun(flags, watched, {"max_epochs": -1, "max_steps": 5}, scheduled=False)
    before, after = watched.weights[0], watched.weights[-1]
    changed = {name for name in before if name.startswith("network") and not before[name].equal(after[name])}
    assert changed == {"network.head.weight", "network.head.bias"}


def test_a_checkpoint_of_a_training_in_python_needs_only_its_network(data_root: Path, tmp_path: Path) -> None:
    model = classifier(FineTuning(1))
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(model, Digits(root=data_root, batch_size=512))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = Classifier.load_from_checkpoint(
        tmp_path / "last.ckpt", network=ResNet(10, 1, [4, 8], [1, 1]), optimizer=SGD
    )
    assert_equal(again.network.state_dict(), model.network.state_dict(), "weights")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--model.network=models.convnet.ConvNet"],
            "needs a network of backbone and head, but ConvNet has no",
        ),
        (["--model.freeze=[backbone.0]"], "model.finetune freezes and decays itself; leave out freeze, unfreeze"),
        (["--model.layer_decay=0.5"], "model.finetune freezes and decays itself; leave out freeze, unfreeze"),
        (["--model.finetune.head_epochs=0"], "model.finetune.head_epochs is 0; give a number above 0"),
        (["--model.finetune.lr=0"], "model.finetune.lr is 0; give a number above 0, or leave it out."),
        (["--model.finetune.layer_decay=2"], "layer_decay is 2.0; give a number above 0, up to 1"),
        (["--model.scheduler=null"], "model.finetune needs a schedule whose total_steps follow from the run"),
        (["--model.scheduler.total_steps=99"], "model.finetune needs a schedule whose total_steps follow from the run"),
        (["--model.optimizer.lr=0"], "model.finetune scales a schedule that is a function of the step; give one such"),
        (
            ["--model.scheduler=torch.optim.lr_scheduler.OneCycleLR", "--model.scheduler.max_lr=0.1"],
            "model.finetune scales a schedule that is a function of the step; give one such as models.schedule.Warmup",
        ),
    ],
)
def test_what_it_cannot_do_is_one_sentence(
    flags: list[str], words: str, refused: Callable[..., str], data_root: Path, tmp_path: Path
) -> None:
    assert words in refused("fit", *FINETUNE, *flags, "--data.root", data_root, "--runs", tmp_path / "runs")
    assert not list(tmp_path.glob("runs/*/*"))
