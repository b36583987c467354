import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from datamodules.digits import Digits
from models.classifier import Classifier
from models.mlp import MLP
from tests.conftest import Run, quiet_trainer

SCHEDULERS = "torch.optim.lr_scheduler"


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
    loops = run.checkpoint["loops"]["fit_loop"]
    steps = loops["epoch_loop.scheduler_progress"]["total"]["completed"]
    assert steps == 12 if interval == "step" else 1 <= steps <= 2
    header = (run.folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "lr" in header


def test_a_plateau_lowers_the_rate(train: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "plateau.yaml").write_text(
        "model: {scheduler: {class_path: lightning.pytorch.cli.ReduceLROnPlateau,"
        " init_args: {monitor: train/loss, mode: max, patience: 0, factor: 0.5}}}"
    )
    run = train("--config", str(tmp_path / "plateau.yaml"), "--trainer.max_epochs=3")
    assert run.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.003 / 4)


@pytest.mark.parametrize(
    "scheduler", ["models.schedule.WarmupCosine", f"{SCHEDULERS}.OneCycleLR --model.scheduler.max_lr=0.1"]
)
def test_a_schedule_that_is_over_before_the_run_is_refused_and_a_longer_one_noted(
    train: Callable[..., Run],
    refused: Callable[..., str],
    tmp_path: Path,
    data_root: Path,
    capsys: pytest.CaptureFixture[str],
    scheduler: str,
) -> None:
    flags = f"--model.scheduler={scheduler} --trainer.max_epochs=1".split()
    places = ("--runs", tmp_path / "runs", "--data.root", data_root)
    error = refused("fit", *flags, "--model.scheduler.total_steps=20", *places)
    assert "the schedule is over after 20 optimizer steps, but the run has 21; make the run as short, or" in error
    assert not list(tmp_path.rglob("*.*"))
    train(*flags, "--model.scheduler.total_steps=22")
    assert "The schedule has 22 steps, the run 21:" in capsys.readouterr().out


ONE_CYCLE = [f"--model.scheduler={SCHEDULERS}.OneCycleLR", "--model.scheduler.max_lr"]


PLATEAU = ["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([*ONE_CYCLE, "-1"], "the learning rate is -1; give a number of at least 0."),
        (
            [*ONE_CYCLE, "0.1", "--model.scheduler.epochs=3", "--model.scheduler.steps_per_epoch=5"],
            "the schedule is as long as the run; leave out its epochs and steps_per_epoch.",
        ),
        ([f"--model.scheduler={SCHEDULERS}.StepLR", "--model.scheduler.step_size=0"], "step_size is 0; give a number"),
        ([*PLATEAU, "val/loss", "--model.scheduler.factor=2"], "model.scheduler: Factor should be < 1.0.\n"),
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


def test_a_plateau_waits_for_the_epochs_that_are_validated(train: Callable[..., Run]) -> None:
    worse = ("--model.scheduler.mode=max", "--model.scheduler.patience=0", "--model.scheduler.threshold=10")
    run = train(*PLATEAU, "val/loss", *worse, "--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=5")
    assert run.checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.003 / 10)


def test_says_which_milestones_the_run_does_not_reach(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = (f"--model.scheduler={SCHEDULERS}.MultiStepLR", "--model.scheduler.milestones=[1, 2, 5]")
    train(*schedule, "--trainer.max_epochs=2")
    assert "MultiStepLR has milestones from 2 on, which a run of 2 epochs does not reach.\n" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--model.freeze=[]", "trained other parameters, or grouped them otherwise; leave model.freeze, unfreeze,"),
        ("--model.unfreeze={1: [stages]}", "trained other parameters, or grouped them otherwise; leave model.freeze"),
        ("--model.decay_norms_and_biases=false", "trained other parameters, or grouped them otherwise; leave"),
        ("--model.optimizer=torch.optim.SGD --model.optimizer.lr=0.1", "was trained by torch.optim.AdamW; leave"),
        ("--model.network.head_sizes=[5]", "do not fit ConvNet as it is given: 3 of another shape (network.head.1."),
        ("--model.network.head_sizes=[]", "do not fit ConvNet as it is given: 2 unexpected (network.head.3.weight, "),
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


@pytest.mark.parametrize(("monitor", "looks"), [("val/loss", 4), ("train/loss", 2), ("val/accuracy", 4)])
def test_a_plateau_is_looked_for_whenever_its_metric_is_measured(
    train: Callable[..., Run], monitor: str, looks: int
) -> None:
    plateau = ("--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", f"--model.scheduler.monitor={monitor}")
    middle = ("--trainer.max_epochs=2", "--data.batch_size=128", "--trainer.val_check_interval=4")
    run = train(*plateau, "--model.scheduler.patience=0", *middle)
    assert run.checkpoint["loops"]["fit_loop"]["epoch_loop.scheduler_progress"]["total"]["completed"] == looks
    (state,) = run.checkpoint["lr_schedulers"]
    assert state["mode"] == ("max" if monitor == "val/accuracy" else "min")
    assert state["best"] == pytest.approx(run.results["metrics"][monitor])
    assert state["num_bad_epochs"] == 0
