import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.plot_schedule import Rehearsal, draw, main
from tests.conftest import Run


@pytest.fixture
def plot(tmp_path: Path, data_root: Path) -> Callable[..., None]:
    def run(*flags: str) -> None:
        places = ["--runs", str(tmp_path / "runs"), "--data.root", str(data_root)]
        main([*flags, *places, "--output", str(tmp_path / "schedule.png")])

    return run


@pytest.mark.slow
def test_draws_the_picture_and_leaves_nothing_else(
    plot: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot("--trainer.max_epochs=3")
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.png"]
    with Image.open(tmp_path / "schedule.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    *_, sentence, file = capsys.readouterr().out.splitlines()
    assert file == str(tmp_path / "schedule.png")
    assert sentence.startswith("63 steps in 3 epochs, learning rate 0.00041 to 0.003 in step 8 and ")


@pytest.mark.slow
def test_draws_each_rate_and_a_momentum_that_changes() -> None:
    pictures = []
    for lrs, momenta in (
        ([[0.1], [0.2], [0.1]], [0.9, 0.9, 0.9]),
        ([[0.1], [0.2], [0.1]], [0.9, 0.8, 0.9]),
        ([[0.1, 0.01], [0.2, 0.02], [0.1, 0.01]], [0.9, 0.9, 0.9]),
        ([[0.1, 0.1], [0.2, 0.2], [0.1, 0.1]], [0.9, 0.9, 0.9]),
    ):
        pictures.append(draw(lrs, momenta, 2))
    assert pictures[0] not in pictures[1:3]
    assert pictures[0] == pictures[3]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"),
            "ReduceLROnPlateau lowers the learning rate when val/loss gets no better, which nobody knows before",
        ),
        (("--trainer.max_epochs=-1", "--model.scheduler=null"), "The run has no end"),
        (("--trainer.max_epochs=0",), "The run has no step to draw"),
        (("--trainer.max_epochs=-1",), "the run has no end for the schedule to come to; give trainer.max_epochs"),
    ],
)
def test_says_what_cannot_be_drawn(
    plot: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    words: str,
) -> None:
    with pytest.raises(SystemExit) as exit_:
        plot(*flags)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


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
    # 21 batches make 11 steps; the last is of one batch.
    flags += ["--trainer.accumulate_grad_batches=2", "--data.batch_size=64"]
    found = logged(train(*flags))
    rehearsal = Rehearsal([*flags, "--data.root", str(data_root)])
    assert rehearsal.steps_per_epoch == 11
    assert len(rehearsal.lrs) == 33
    assert len(found) >= 3
    # Logged once per epoch, a rate is logged at the epoch's first step.
    assert {step: rehearsal.lrs[step][0] for step in found} == pytest.approx(found)


@pytest.mark.slow
def test_the_run_may_end_within_an_epoch(train: Callable[..., Run], data_root: Path) -> None:
    flags = ["--trainer.max_steps=50", "--trainer.log_every_n_steps=1"]
    found = logged(train(*flags))
    rehearsal = Rehearsal([*flags, "--data.root", str(data_root)])
    assert rehearsal.steps_per_epoch == 21
    assert dict(enumerate(rates[0] for rates in rehearsal.lrs)) == pytest.approx(found)


@pytest.mark.parametrize(
    ("optimizer", "low", "high"),
    [(["--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.9"], 0.85, 0.95), ([], 0.85, 0.95)],
)
def test_one_cycle_changes_the_momentum(data_root: Path, optimizer: list[str], low: float, high: float) -> None:
    flags = [*optimizer, "--model.scheduler", SCHEDULES["one-cycle"], "--data.root", str(data_root)]
    rehearsal = Rehearsal([*flags, "--trainer.max_epochs=5"])
    assert min(rehearsal.momenta) == pytest.approx(low, abs=1e-3)
    assert max(rehearsal.momenta) == pytest.approx(high, abs=1e-3)


def test_nothing_is_trained(data_root: Path) -> None:
    assert Rehearsal(["--data.root", str(data_root), "--trainer.max_epochs=2"]).trainer.global_step == 0
