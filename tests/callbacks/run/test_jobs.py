import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.run.jobs import find_job
from callbacks.run.run_folder import agree_on_run_folder, current_job
from tests.callbacks.run.test_interruption import TWO, sends
from tests.conftest import Run
from tests.discovery import ROOT
from tests.test_two_processes import ENVIRONMENT, SCRIPT, command

JOB_ID = str(os.getpid())  # its last digits give the ports, which two checkouts that are tested at once must not share

JOB = {
    "SLURM_JOB_ID": JOB_ID,
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


@pytest.mark.slow
def test_a_job_is_queued_again_and_finds_its_own_run(
    train: Callable[..., Run], tmp_path: Path, queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        train(*TWO, sends("train", signal.SIGUSR1, nth=4))
    assert queue.read_text() == f"requeue {JOB_ID}\n"
    (folder,) = tmp_path.glob(f"runs/*/job-{JOB_ID}-*")
    assert Run(folder).checkpoint["global_step"] == 4
    run = Run(folder)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match="not enough values"):  # nothing is made
        train(*TWO)
    assert run.checkpoint["epoch"] == 2
    assert run.results["steps"] == 12
    assert len(list(tmp_path.glob("runs/*/*"))) == 1
    another = train(*TWO)  # that run is finished
    assert another.results["seconds"] > 0
    assert another.folder.name == f"{folder.name}_2"


def test_a_job_that_is_to_end_is_not_queued_again(train: Callable[..., Run], queue: Path) -> None:
    with pytest.raises(SystemExit):
        train(*TWO, sends("train", signal.SIGTERM))
    assert not queue.exists()


def test_names_the_task_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert find_job().name == "9"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert find_job().name == "7_2"


def test_says_when_it_cannot_queue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    find_job().queue_again()
    assert "job 9 could not be queued again" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bash", "train"])
def test_the_same_command_in_a_job_that_was_not_queued_again_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable, value in (JOB | {"SLURM_JOB_NAME": name, "SLURM_STEP_ID": "0"}).items():
        monkeypatch.setenv(variable, value)
    folders = [agree_on_run_folder(tmp_path) for _ in range(3)]
    assert len(set(folders)) == 3
    (folders[1] / "results.json").write_text('{"metrics": {"test/accuracy": 1.0}}')
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    os.utime(folders[0])
    assert agree_on_run_folder(tmp_path) == folders[0], "the newest of those that are not finished"
    monkeypatch.setattr(sys, "argv", ["train.py", "another command"])
    assert agree_on_run_folder(tmp_path) not in folders


AGREE = """
import sys
from pathlib import Path
from callbacks.run.run_folder import agree_on_run_folder
print(agree_on_run_folder(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_processes_that_srun_starts_together_agree_however_often(tmp_path: Path) -> None:
    job = JOB | {"SLURM_NTASKS": "3", "SLURM_NTASKS_PER_NODE": "3", "SLURM_NODELIST": "localhost"}
    job |= {"PYTHONPATH": str(ROOT)}
    told = []
    for _ in range(2):
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", AGREE, str(tmp_path)],
                env=os.environ | job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in (2, 1, 0)
        ]
        told.append({process.stdout.readline() for process in ranks if process.stdout})
        for process in ranks:
            process.communicate()  # until then the store of the first one is there for the others
    assert [len(folders) for folders in told] == [1, 1]
    assert told[0] != told[1]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "The job of SLURM has 4 tasks, but does not say how many of them are on each node"),
        ({"SLURM_NTASKS_PER_NODE": "4"}, "SLURM has started 4 processes, but the Trainer is for 1"),
    ],
)
def test_tasks_that_are_not_the_devices_are_refused(
    refused: Callable[..., str],
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    words: str,
) -> None:
    for variable, value in (JOB | {"SLURM_NTASKS": "4", "SLURM_NODELIST": "localhost"} | variables).items():
        monkeypatch.setenv(variable, value)
    for variable in ("MASTER_ADDR", "MASTER_PORT"):  # which Lightning leaves in the environment
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    assert words in refused("fit", "--runs", tmp_path / "runs", "--data.root", data_root)
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("variable", [{}, {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}], ids=["shared store", "own"])
def test_torchrun_starts_them_again_in_the_same_run(tmp_path: Path, variable: dict[str, str]) -> None:
    torchrun = command("torchrun", tmp_path, "--trainer.max_epochs=15")
    torchrun.insert(torchrun.index(SCRIPT), "--max_restarts=1")
    environment = ENVIRONMENT | variable
    with subprocess.Popen(torchrun, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")):
            assert process.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    (run,) = tmp_path.glob("runs/*/*")
    assert f"resuming {run} after step" in said.decode()
    assert json.loads((run / "results.json").read_text())["epochs"] == 15
