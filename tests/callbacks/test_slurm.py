import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks import slurm
from tests.callbacks.test_interruption import TWO, sends
from tests.conftest import Run

JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job, and what its `scontrol` was asked for."""
    asked = tmp_path / "asked"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    return asked


def test_a_job_is_queued_again_and_finds_its_own_run(train: Callable[..., Run], tmp_path: Path, queue: Path) -> None:
    with pytest.raises(SystemExit):
        train(*TWO, sends("train", signal.SIGUSR1, nth=4))
    assert queue.read_text() == "requeue 7\n"
    (folder,) = tmp_path.glob("runs/*/job-7-*")
    assert Run(folder).checkpoint["global_step"] == 4
    run = Run(folder)
    with pytest.raises(ValueError, match="not enough values"):  # nothing is made
        train(*TWO)
    assert run.checkpoint["epoch"] == 2
    assert run.results["steps"] == 12
    assert len(list(tmp_path.glob("runs/*/*"))) == 1


def test_a_job_that_is_to_end_is_not_queued_again(train: Callable[..., Run], queue: Path) -> None:
    with pytest.raises(SystemExit):
        train(*TWO, sends("train", signal.SIGTERM))
    assert not queue.exists()


def test_names_the_task_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm.job() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert slurm.job() == "9"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert slurm.job() == "7_2"


def test_says_when_it_cannot_queue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    slurm.queue_again()
    assert "job 9 could not be queued again" in capsys.readouterr().err
