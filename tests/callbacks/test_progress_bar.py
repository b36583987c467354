import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich import get_console

from callbacks.progress_bar import ProgressBar
from scripts.train import main
from tests.callbacks.run.test_interruption import sends
from tests.conftest import Run
from tests.discovery import ROOT


def test_writes_a_line_for_each_epoch_where_there_is_no_terminal(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    train("--trainer.max_epochs=2", "--data.batch_size=256")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["0/1", "1/1"]
    for line in lines:
        assert "train/loss" in line
        assert "val/accuracy" in line
        assert "batches/s" in line
        assert line.endswith("left")


def test_says_nothing_of_the_time_left_before_all_is_trained(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    train(
        "--trainer.max_epochs=3",
        "--data.batch_size=512",
        "--model.freeze=[stages.0]",
        "--model.unfreeze={1: [stages.0]}",
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["left" in line for line in lines] == [False, True, True]


@pytest.mark.slow
def test_a_run_taken_up_within_an_epoch_counts_what_it_does_itself(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        train("--trainer.max_epochs=1", "--data.batch_size=256", sends("train", signal.SIGTERM, nth=3))
    (config,) = tmp_path.glob("runs/**/config.yaml")
    capsys.readouterr()
    ticks = count()  # one for each batch, and one for the line itself
    monkeypatch.setattr("callbacks.progress_bar.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    main(["fit", "--resume", str(config.parent), "--trainer.callbacks=null"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert "0.8 batches/s" in line, "3 in 4 seconds"


def test_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_console(), "_force_terminal", True)
    assert ProgressBar().is_enabled
    monkeypatch.setattr(get_console(), "_force_terminal", False)
    assert ProgressBar().is_disabled


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    ("flags", "epochs", "left"),
    [
        (["--trainer.max_epochs=-1", "--trainer.max_steps=4"], ["0", "1"], True),
        (["--trainer.max_epochs=2", "--trainer.max_steps=5"], ["0/1", "1/1"], True),
        (["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"], ["0/0"], True),
        (["--trainer.max_epochs=1", "--trainer.limit_val_batches=0"], ["0/0"], True),
        (["--trainer.max_epochs=1", "--trainer.val_check_interval=2"], ["0/0"], True),
        (["--trainer.max_epochs=1", "--trainer.limit_train_batches=0"], [], False),
        (["--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:00", "--model.scheduler=null"], [], False),
        (["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--progress_bar=null"], [], False),
    ],
)
def test_a_run_of_any_length_ends_in_order_with_and_without_a_terminal(
    train: Callable[..., Run],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
    flags: list[str],
    epochs: list[str],
    left: bool,
) -> None:
    monkeypatch.setattr(get_console(), "_force_terminal", terminal)
    run = train("--data.batch_size=512", *flags)
    assert "test/accuracy" in run.results["metrics"]
    said = capsys.readouterr().out
    assert "/-" not in said, "an epoch of -1"
    lines = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ([] if terminal else epochs)
    assert all(("at most 0:00:0" in line) == left for line in lines)


DEBUGGED = """
from torch import Tensor, nn


class Debugged(nn.Module):
    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        breakpoint()
        return self.linear(flat)
"""


@pytest.mark.slow
def test_a_breakpoint_in_a_network_has_the_terminal_to_itself(tmp_path: Path, data_root: Path) -> None:
    (tmp_path / "debugged.py").write_text(DEBUGGED)
    flags = [f"--data.root={data_root}", "--data.batch_size=512", "--trainer.max_epochs=1"]
    command = [sys.executable, str(ROOT / "scripts/train.py"), "fit", "--model.network=debugged.Debugged", *flags]
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    environment = os.environ | {"PYTHONPATH": paths, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    answers = iter(["p tuple(flat.shape)", "c", "p 'training', self.training"])
    terminal, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as run:
        os.close(theirs)
        said = ""
        with suppress(OSError):  # which its end is
            while data := os.read(terminal, 65536):
                said += data.decode()
                if said.endswith("(Pdb) "):
                    os.write(terminal, f"{next(answers, 'c')}\n".encode())
    os.close(terminal)
    first, second, *_ = said.split("(Pdb) c")
    assert "debugged.py(13)forward()" in first
    assert "(144, 64)" in first, "no image but those of the data"
    assert "('training', True)" in second
    assert run.returncode == 0
    assert "checkpoint  " in said
