import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.serialization.checkpoint import read_checkpoint
from scripts.benchmark import FEWEST_EPOCHS, TimedTraining
from scripts.training.train_cli import TrainCLI
from tests.discovery import ROOT


@pytest.mark.slow
def test_prints_the_ratio_of_program_and_limit(data_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--seconds", "0", "--config"]
    command += [str(ROOT / "configs" / "digits" / "mlp.yaml"), "--data.root", str(data_root)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for heading in ("bare", "program", "ratio", "added", "waiting"):
        assert heading in done.stdout
    assert not list(tmp_path.iterdir()), "the benchmark leaves nothing behind"


@pytest.mark.slow
def test_says_what_each_callback_costs_in_a_whole_training(data_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--callbacks", "--trainer.max_epochs=2"]
    command += ["--config", str(ROOT / "configs" / "digits" / "mlp.yaml"), "--data.root", str(data_root)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 epochs" in done.stdout
    rows = {cells[1]: cells for line in done.stdout.splitlines() if len(cells := line.split()) > 6}
    for name in ("FiniteGuard", "ConfusionMatrix", "WorstMistakes", "ModelGraph", "Hyperparameters", "Throughput"):
        assert int(rows[name][7]) > 0
    assert not list(tmp_path.iterdir()), "the benchmark leaves nothing behind"


@pytest.mark.slow
def test_fails_with_what_it_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--config", "none.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none.yaml cannot be read" in done.stderr


@pytest.mark.slow
def test_measures_until_its_time_is_over_and_leaves_the_training_as_it_is(tmp_path: Path, data_root: Path) -> None:
    flags = ["--model.scheduler=null", "--data.batch_size=128", "--data.root", str(data_root)]
    timed = TimedTraining(flags, steps=10, seconds=0, folder=str(tmp_path / "timed"))
    flags += ["--data.drop_last=true", "--trainer.limit_train_batches=10", "--trainer.limit_val_batches=1"]
    flags += [f"--trainer.max_epochs={FEWEST_EPOCHS + 1}", "--early_stopping=null", "--runs", str(tmp_path / "plain")]
    states = [
        read_checkpoint(cli.folder / "checkpoints" / "last.ckpt")["state_dict"]
        for cli in (timed.cli, TrainCLI(["fit", *flags]))
    ]
    assert len(timed.epochs) == FEWEST_EPOCHS
    assert all(min(bare, program) > 0 and 0 <= waiting < 1 for bare, program, waiting in timed.epochs)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
