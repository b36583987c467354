import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from callbacks.run_folder import make_run_folder
from tests.discovery import ROOT


def test_no_two_runs_share_a_folder(tmp_path: Path) -> None:
    folders = [make_run_folder(tmp_path / "experiment") for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.is_dir() for folder in folders)


def test_refuses_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        MisconfigurationException, match=r"file/a/.* cannot be made: .*choose another place with --runs"
    ):
        make_run_folder(tmp_path / "file" / "a")


@pytest.mark.parametrize("launcher", ["Lightning", "torchrun"])
def test_all_processes_of_a_run_use_one_folder(tmp_path: Path, data_root: Path, launcher: str) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *(torchrun if launcher == "torchrun" else []), str(ROOT / "scripts" / "train.py"), "fit"]
    command += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1"]
    command += ["--runs", str(tmp_path / "runs"), "--data.root", str(data_root), "--data.batch_size=128"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr
    (folder,) = tmp_path.glob("runs/*/*")
    assert (folder / "results.json").is_file()
