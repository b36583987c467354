import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.run.run_folder import hold, make_run_folder, newest_run, number_start, order_of_start, release_folders
from core.user_error import UserError
from scripts.train import main
from tests.conftest import Run
from tests.discovery import ROOT


def test_no_two_runs_share_a_folder(tmp_path: Path) -> None:
    folders = [make_run_folder(tmp_path / "experiment") for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.is_dir() for folder in folders)


def test_refuses_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/a/.* cannot be made: .*choose another place with --runs"):
        make_run_folder(tmp_path / "file" / "a")


@pytest.mark.slow
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


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    hold(tmp_path)
    with pytest.raises(UserError, match="Another process is training in"):
        hold(tmp_path)
    release_folders()
    hold(tmp_path)
    release_folders()


@pytest.mark.slow
def test_the_newest_run_is_gone_on_with(train: Callable[..., Run], tmp_path: Path) -> None:
    older, newer = (train("--trainer.max_epochs=1", "--data.batch_size=512") for _ in range(2))
    os.utime(newer.folder / "config.yaml", (1, 1))  # the clock was set back between the two
    main(["fit", "--runs", str(tmp_path / "runs"), "--resume", "--trainer.max_epochs=2"])
    assert [Run(run.folder).checkpoint["epoch"] for run in (older, newer)] == [1, 2]
    main(["fit", "--resume", str(older.folder), "--trainer.max_epochs=3"])
    assert [Run(run.folder).checkpoint["epoch"] for run in (older, newer)] == [3, 2]
    assert max((newer.folder, older.folder), key=order_of_start) == older.folder, "the one that was started last"


def test_runs_from_before_their_starts_were_numbered_go_by_the_clock(tmp_path: Path) -> None:
    for number, run in enumerate(("a", "c", "b")):
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.yaml").touch()
        os.utime(tmp_path / run / "config.yaml", (number, number))
    assert newest_run(tmp_path).name == "b"
    number_start(tmp_path / "a")
    assert newest_run(tmp_path).name == "a"
    (tmp_path / "c" / "number.txt").write_text("9" * 5000)  # a stranger's
    number_start(tmp_path / "b")
    assert newest_run(tmp_path).name == "b"
