import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from callbacks.diagnostics.schedule_rehearsal import ScheduleRehearsal
from scripts.training.dry_run import DryRun
from tests.conftest import Run

TORCH = "torch.optim.lr_scheduler"
SCHEDULES = {
    "one-cycle": f"{{class_path: {TORCH}.OneCycleLR, init_args: {{max_lr: 0.01}}}}",
    "cosine with warm-up": "{class_path: models.schedule.WarmupCosine, init_args: {warmup: 0.3}}",
    "step": f"{{class_path: {TORCH}.StepLR, init_args: {{step_size: 1, gamma: 0.5}}}}",
    "milestones": f"{{class_path: {TORCH}.MultiStepLR, init_args: {{milestones: [1, 2], gamma: 0.1}}}}",
    "cosine": f"{{class_path: {TORCH}.CosineAnnealingLR, init_args: {{T_max: 3}}}}",
    "constant": "null",
}


def logged(run: Run) -> dict[int, float]:
    """The learning rate that the run logged at each step."""
    with (run.folder / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}


@pytest.mark.slow
@pytest.mark.parametrize("written", ["flag", "file"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_is_what_a_run_logs(
    train: Callable[..., Run], tmp_path: Path, data_root: Path, schedule: str, written: str
) -> None:
    flags = ["--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", "--early_stopping=null"]
    if written == "flag":
        flags += ["--model.scheduler", schedule]
    else:
        (tmp_path / "schedule.yaml").write_text(f"model: {{scheduler: {schedule}}}")
        flags += ["--config", str(tmp_path / "schedule.yaml")]
    # 21 batches make 11 steps, of which the last is of one batch.
    flags += ["--trainer.accumulate_grad_batches=2", "--data.batch_size=64"]
    found = logged(train(*flags))
    rehearsal = ScheduleRehearsal()
    DryRun([*flags, "--data.root", str(data_root)], rehearsal, {}, scheduled=True)
    assert rehearsal.steps_per_epoch == 11
    assert len(rehearsal.lrs) == 33
    assert len(found) >= 3
    # Logged once per epoch, a rate is logged at the epoch's first step.
    assert {step: rehearsal.lrs[step][0] for step in found} == pytest.approx(found)


@pytest.mark.slow
def test_the_run_may_end_within_an_epoch(train: Callable[..., Run], data_root: Path) -> None:
    flags = ["--trainer.max_steps=50", "--trainer.log_every_n_steps=1"]
    found = logged(train(*flags))
    rehearsal = ScheduleRehearsal()
    DryRun([*flags, "--data.root", str(data_root)], rehearsal, {}, scheduled=True)
    assert rehearsal.steps_per_epoch == 21
    assert dict(enumerate(rates[0] for rates in rehearsal.lrs)) == pytest.approx(found)


@pytest.mark.parametrize(
    ("optimizer", "low", "high"),
    [(["--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.9"], 0.85, 0.95), ([], 0.85, 0.95)],
)
def test_one_cycle_changes_the_momentum(data_root: Path, optimizer: list[str], low: float, high: float) -> None:
    rehearsal = ScheduleRehearsal()
    flags = [*optimizer, "--model.scheduler", SCHEDULES["one-cycle"], "--data.root", str(data_root)]
    DryRun(flags, rehearsal, {"max_epochs": 5}, scheduled=True)
    assert min(rehearsal.momenta) == pytest.approx(low, abs=1e-3)
    assert max(rehearsal.momenta) == pytest.approx(high, abs=1e-3)


def test_nothing_is_trained(data_root: Path) -> None:
    rehearsal = ScheduleRehearsal()
    trial = DryRun(["--data.root", str(data_root)], rehearsal, {"max_epochs": 2}, scheduled=True)
    assert trial.trainer.global_step == 0
    assert all(torch.isfinite(value).all() for value in trial.model.state_dict().values())
