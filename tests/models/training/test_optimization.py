import csv
import math
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, PolynomialLR, StepLR

from core.user_error import UserError
from datamodules.digits import Digits
from models.classifier import Classifier
from models.mlp import MLP
from models.training.optimization import check_schedule
from scripts.train import main
from tests.conftest import Run, quiet_trainer

SCHEDULERS = "torch.optim.lr_scheduler"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "interval"),
    [
        (["--model.scheduler=models.schedule.WarmupCosine"], "step"),
        ([f"--model.scheduler={SCHEDULERS}.OneCycleLR", "--model.scheduler.max_lr=0.1"], "step"),
        ([f"--model.scheduler={SCHEDULERS}.StepLR", "--model.scheduler.step_size=1"], "epoch"),
        ([f"--model.scheduler={SCHEDULERS}.MultiStepLR", "--model.scheduler.milestones=[1]"], "epoch"),
        (["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"], "epoch"),
        (["--model.scheduler=null"], "epoch"),
    ],
)
def test_schedules_step_as_they_need(train: Callable[..., Run], flags: list[str], interval: str) -> None:
    run = train(*flags, "--trainer.max_epochs=2", "--data.batch_size=256", "--trainer.log_every_n_steps=1")
    steps = run.checkpoint["lr_schedulers"][0]["last_epoch"]
    assert steps == 12 if interval == "step" else 1 <= steps <= 2
    header = (run.folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "lr" in header


@pytest.mark.slow
def test_a_plateau_lowers_the_rate(train: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "plateau.yaml").write_text(
        "model: {scheduler: {class_path: lightning.pytorch.cli.ReduceLROnPlateau,"
        " init_args: {monitor: train/loss, mode: max, patience: 0, factor: 0.5}}}"
    )
    run = train("--config", str(tmp_path / "plateau.yaml"), "--trainer.max_epochs=3")
    assert run.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.003 / 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler", ["models.schedule.WarmupCosine", f"{SCHEDULERS}.OneCycleLR --model.scheduler.max_lr=0.1"]
)
def test_a_schedule_that_is_over_before_the_run_is_refused(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path, data_root: Path, scheduler: str
) -> None:
    flags = f"--model.scheduler={scheduler} --trainer.max_epochs=1".split()
    places = ("--runs", tmp_path / "runs", "--data.root", data_root)
    error = refused("fit", *flags, "--model.scheduler.total_steps=20", *places)
    assert "the schedule is over after 20 optimizer steps, but the run has 21; make the run as short, or" in error
    assert not list(tmp_path.rglob("*.*"))
    assert train(*flags, "--model.scheduler.total_steps=22").results["steps"] == 21


ONE_CYCLE = [f"--model.scheduler={SCHEDULERS}.OneCycleLR", "--model.scheduler.max_lr"]


PLATEAU = ["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            [*ONE_CYCLE, "0.1", "--model.scheduler.epochs=3", "--model.scheduler.steps_per_epoch=5"],
            "the schedule is as long as the run; leave out its epochs and steps_per_epoch.",
        ),
        ([f"--model.scheduler={SCHEDULERS}.StepLR", "--model.scheduler.step_size=0"], "step_size is 0; give a number"),
        (
            [*PLATEAU, "val/loss", "--model.scheduler.factor=2"],
            "In model.optimizer or model.scheduler, correct this: Factor should be < 1.0.\n",
        ),
        (
            [*PLATEAU, "val/f1"],
            "error: model.scheduler.monitor is val/f1, which is not logged; choose from train/accuracy, train/loss, "
            "val/accuracy, val/loss.\n",
        ),
        (
            [f"--model.scheduler={SCHEDULERS}.ReduceLROnPlateau"],
            "name lightning.pytorch.cli.ReduceLROnPlateau, with a monitor such as val/loss.",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(
    refused: Callable[..., str], tmp_path: Path, data_root: Path, flags: list[str], words: str
) -> None:
    assert words in refused("fit", *flags, "--runs", tmp_path / "runs", "--data.root", data_root)


@pytest.mark.slow
def test_a_plateau_waits_for_the_epochs_that_are_validated(train: Callable[..., Run]) -> None:
    worse = ("--model.scheduler.mode=max", "--model.scheduler.patience=0", "--model.scheduler.threshold=10")
    run = train(*PLATEAU, "val/loss", *worse, "--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=5")
    assert run.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.003 / 10)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["models.schedule.WarmupCosine", f"{SCHEDULERS}.OneCycleLR"])
def test_a_resumed_run_may_be_made_longer(
    train: Callable[..., Run], resume: Callable[..., Run], capsys: pytest.CaptureFixture[str], scheduler: str
) -> None:
    peak = ("--model.scheduler.max_lr=0.003",) if "OneCycle" in scheduler else ()
    whole = train(f"--model.scheduler={scheduler}", *peak, "--trainer.max_epochs=3")
    run = train(f"--model.scheduler={scheduler}", *peak, "--trainer.max_epochs=2")
    longer = resume(run, "--trainer.max_epochs=3")
    assert "The schedule was made for 42 steps and now has 63: the rate goes on" in capsys.readouterr().out
    assert longer.checkpoint["epoch"] == 3
    rates = [run.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] for run in (longer, whole)]
    assert rates[0] == pytest.approx(rates[1])


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A run of 2 epochs of 12 steps, whose rate has come down to 0."""
    place = tmp_path_factory.mktemp("two-epochs")
    flags = ("--data.limit=1000", "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--early_stopping=null")
    main(["fit", *flags, "--runs", str(place), "--data.root", str(data_root), "--experiment=run"])
    (run,) = (file.parent for file in place.glob("run/*/config.yaml"))
    return run


@pytest.fixture
def go_on(two_epochs: Path, tmp_path: Path, resume: Callable[..., Run]) -> Callable[..., Run]:
    """Goes on with a copy of that run to a third epoch."""

    def fit(*flags: str) -> Run:
        folder = tmp_path / "copy"
        shutil.copytree(two_epochs, folder)
        return resume(Run(folder), "--trainer.max_epochs=3", *flags)

    return fit


def cosine(peak: float, step: int, total: int) -> float:
    return peak * (1 + math.cos(math.pi * (step - 0.1 * total) / (0.9 * total))) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "rate", "argument"),
    [
        (["--model.optimizer.lr=0.001"], cosine(0.001, 24, 36), None),
        (["--model.scheduler.warmup=0.9"], 0.003 * 25 / (0.9 * 36 + 1), None),
        (["--trainer.accumulate_grad_batches=4"], cosine(0.003, 24, 27), None),
        (["--data.batch_size=240", "--trainer.max_epochs=4"], cosine(0.003, 24, 30), None),
        (["--trainer.limit_train_batches=6"], cosine(0.003, 24, 30), None),
        (["--model.scheduler=null"], 0.003, None),
        ([f"--model.scheduler={SCHEDULERS}.StepLR", "--model.scheduler.step_size=1"], 0.003 * 0.1 * 0.1, None),
        ([f"--model.scheduler={SCHEDULERS}.ExponentialLR", "--model.scheduler.gamma=0.5"], 0.003 / 4, None),
        ([*PLATEAU, "val/loss"], 0.003, None),
        (["--model.optimizer.weight_decay=0.3"], cosine(0.003, 24, 36), ("weight_decay", 0.3)),
        (["--model.optimizer.betas=[0.8, 0.9]"], cosine(0.003, 24, 36), ("betas", (0.8, 0.9))),
        (["--model.optimizer.eps=0.001"], cosine(0.003, 24, 36), ("eps", 0.001)),
    ],
)
def test_a_resumed_run_is_optimized_as_its_flags_say(
    go_on: Callable[..., Run], flags: list[str], rate: float, argument: tuple[str, object] | None
) -> None:
    run = go_on(*flags)
    rows = list(csv.DictReader((run.folder / "metrics.csv").read_text().splitlines()))
    assert [float(row["lr"]) for row in rows if row["lr"] and row["step"] == "24"] == [pytest.approx(rate)]
    (group,) = run.checkpoint["optimizer_states"][0]["param_groups"]
    if argument:
        name, value = argument
        assert group[name] == value
    state = run.checkpoint["optimizer_states"][0]["state"]
    assert {int(values["step"]) for values in state.values()} == {run.checkpoint["global_step"]}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (torch.optim.AdamW, partial(torch.optim.AdamW, amsgrad=True), "has kept no max_exp_avg_sq, which"),
        (torch.optim.RMSprop, partial(torch.optim.RMSprop, centered=True), "has kept no grad_avg, which"),
        (torch.optim.SGD, partial(torch.optim.SGD, momentum=0.9, nesterov=True), ""),
        (partial(torch.optim.AdamW, amsgrad=True), torch.optim.AdamW, ""),
    ],
)
def test_an_optimizer_goes_on_with_other_arguments_if_it_has_what_they_need(
    before: Callable[..., torch.optim.Optimizer],
    after: Callable[..., torch.optim.Optimizer],
    words: str,
    digits: Digits,
    tmp_path: Path,
) -> None:
    first = quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=0)
    first.fit(Classifier(MLP(64, 10), 10, partial(before, lr=0.01)), digits)
    first.save_checkpoint(tmp_path / "first.ckpt")
    second = quiet_trainer(tmp_path, max_epochs=2, limit_train_batches=2, limit_val_batches=0)
    model = Classifier(MLP(64, 10), 10, partial(after, lr=0.02))
    with pytest.raises(UserError, match=words) if words else nullcontext():
        second.fit(model, digits, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
        assert second.optimizers[0].param_groups[0]["lr"] == 0.02


class Prodigious(torch.optim.SGD):
    """Finds its rate by itself, and keeps it where arguments are."""

    def __init__(self, params: Any, lr: float = 1.0) -> None:
        super().__init__(params, lr)
        self.defaults["found"] = 0
        self.param_groups[0]["found"] = 0

    def step(self, closure: Any = None) -> Any:
        self.param_groups[0]["found"] += 1
        return super().step(closure)


def test_what_an_optimizer_has_found_among_its_arguments_is_progress(digits: Digits, tmp_path: Path) -> None:
    found = []
    for epochs, path in ((1, None), (2, tmp_path / "first.ckpt")):
        trainer = quiet_trainer(tmp_path, max_epochs=epochs, limit_train_batches=2, limit_val_batches=0)
        trainer.fit(Classifier(MLP(64, 10), 10, Prodigious), digits, ckpt_path=path, weights_only=True)
        trainer.save_checkpoint(tmp_path / "first.ckpt")
        found.append(trainer.optimizers[0].param_groups[0]["found"])
    assert found == [2, 4]


@pytest.mark.slow
def test_layers_have_the_rates_that_the_flags_say(train: Callable[..., Run], resume: Callable[..., Run]) -> None:
    run = train("--model.layer_decay=0.5", "--trainer.max_epochs=1", "--data.limit=200", "--model.scheduler=null")
    resumed = resume(run, "--trainer.max_epochs=2", "--model.layer_decay=0.9", "--model.optimizer.lr=0.01")
    groups = resumed.checkpoint["optimizer_states"][0]["param_groups"]
    assert len(groups) > 2
    assert [group["lr"] for group in groups] == [pytest.approx(0.01 * 0.9**depth) for depth in range(len(groups))][::-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--model.freeze=[]", "trained other parameters, or grouped them otherwise; leave model.optimizer, freeze,"),
        (
            "--model.unfreeze={1: [stages]}",
            "trained other parameters, or grouped them otherwise; leave model.optimizer",
        ),
        ("--model.decay_norms_and_biases=false", "trained other parameters, or grouped them otherwise; leave"),
        ("--model.optimizer=torch.optim.SGD --model.optimizer.lr=0.1", "was trained by torch.optim.AdamW; leave"),
        ("--model.network.head_sizes=[5]", "do not fit ConvNet as it is configured: 3 of another shape (network.head"),
        ("--model.network.head_sizes=[]", "do not fit ConvNet as it is configured: 2 unexpected (network.head.3."),
    ],
)
def test_a_resumed_run_has_the_network_and_the_optimizer_that_it_had(
    flags: str, words: str, train: Callable[..., Run], refused: Callable[..., str]
) -> None:
    run = train("--model.freeze=[stages]", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    config = (run.folder / "config.yaml").read_text()
    sentence = refused("fit", "--resume", run.folder, "--trainer.max_epochs=2", *re.split(r" (?=--)", flags))
    assert words in sentence
    assert "or begin a new run from" in sentence
    assert (run.folder / "config.yaml").read_text() == config  # so that it goes on without the flags
    assert not (run.folder / "restarts.json").exists()


def test_a_schedule_over_the_run_needs_a_run_that_ends(
    refused: Callable[..., str], data_root: Path, tmp_path: Path
) -> None:
    places = ("--runs", tmp_path / "runs", "--data.root", data_root)
    error = refused("fit", "--trainer.max_epochs=-1", *places)
    assert "the run has no end for the schedule to come to; give trainer.max_epochs" in error


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        (torch.optim.SGD, True),
        (torch.optim.AdamW, True),
        (torch.optim.RMSprop, None),
        (partial(torch.optim.Adam, foreach=True), None),
        (partial(torch.optim.Adam, fused=False), False),
    ],
)
def test_updates_in_one_pass_what_can_be_unless_told_otherwise(
    optimizer: Callable[..., torch.optim.Optimizer], fused: bool | None, digits: Digits, tmp_path: Path
) -> None:
    weights: list[torch.Tensor] = []
    for make in (optimizer, partial(optimizer, foreach=True, fused=None) if fused else optimizer):
        torch.manual_seed(0)
        model = Classifier(MLP(64, 10), 10, partial(make, lr=0.01))
        fitted = quiet_trainer(tmp_path, max_epochs=1, precision="bf16-mixed", gradient_clip_val=0.1)
        fitted.fit(model, digits)
        assert fitted.optimizers[0].param_groups[0].get("fused") == (fused if make is optimizer else None)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(weights[0], weights[1], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("monitor", "looks"), [("val/loss", 4), ("train/loss", 2), ("val/accuracy", 4)])
def test_a_plateau_is_looked_for_whenever_its_metric_is_measured(
    train: Callable[..., Run], monitor: str, looks: int
) -> None:
    plateau = ("--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", f"--model.scheduler.monitor={monitor}")
    middle = ("--trainer.max_epochs=2", "--data.batch_size=128", "--trainer.val_check_interval=4")
    run = train(*plateau, "--model.scheduler.patience=0", *middle)
    assert run.checkpoint["lr_schedulers"][0]["last_epoch"] == looks
    (state,) = run.checkpoint["lr_schedulers"]
    assert state["mode"] == ("max" if monitor == "val/accuracy" else "min")
    assert state["best"] == pytest.approx(run.results["metrics"][monitor])
    assert state["num_bad_epochs"] == 0


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StepLR(optimizer(), 0), "step_size is 0; give a number of epochs of at least 1"),
        (lambda: CosineAnnealingLR(optimizer(), -2), "T_max is -2; give a number of epochs of at least 1"),
        (lambda: PolynomialLR(optimizer(), 5), "over after total_iters 5, but is for a run of 30 epochs; give 30"),
    ],
)
def test_refuses_a_length_that_cannot_be(make: Callable[[], LRScheduler], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_schedule(make(), 30)


@pytest.mark.parametrize("epochs", [5, -1, None])
def test_a_schedule_may_be_as_long_as_its_run_or_longer(epochs: int | None) -> None:
    for schedule in (PolynomialLR(optimizer(), 5), PolynomialLR(optimizer(), 6), CosineAnnealingLR(optimizer(), 3)):
        check_schedule(schedule, epochs)
