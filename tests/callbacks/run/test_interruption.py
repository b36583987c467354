import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from scripts.train import main
from tests.conftest import Run
from tests.discovery import ROOT
from tests.faults.case import timeless_rows

STATUSES = [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
TWO = ("--trainer.max_epochs=2", "--data.batch_size=256")


@pytest.fixture(autouse=True)
def hangs_up() -> Iterator[None]:
    """The tests themselves may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class KillsWorkers(Callback):
    """Kills what loads the training's batches in the nth of them, as the system does when memory runs out."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx == 2:
            for worker in active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)
                worker.join(60)


class Sends(Callback):
    """Sends this process a signal in the nth batch of a stage."""

    def __init__(self, stage: str, number: int, nth: int = 2) -> None:
        self.stage = stage
        self.number = number
        self.nth = nth

    def _send(self, stage: str, batch_idx: int) -> None:
        if stage == self.stage and batch_idx == self.nth - 1:
            os.kill(os.getpid(), self.number)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._send("fit start", 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self._send("train", batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._send("train end", 0)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *rest: object) -> None:
        if not trainer.sanity_checking:
            self._send("validation", int(str(rest[1])))

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *rest: object) -> None:
        self._send("test", int(str(rest[1])))


def sends(stage: str, number: int, nth: int = 2) -> str:
    where = f"{{stage: {stage}, number: {number}, nth: {nth}}}"
    return f"--trainer.callbacks=[{{class_path: {Sends.__module__}.Sends, init_args: {where}}}]"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), STATUSES)
def test_a_signal_saves_and_leaves_after_the_batch(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, status: int
) -> None:
    with pytest.raises(SystemExit) as left:
        train(*TWO, sends("train", number))
    assert left.value.code == status
    (folder,) = tmp_path.glob("runs/*/*")
    assert Run(folder).checkpoint["global_step"] == 2
    said = capsys.readouterr().out
    assert f"stopped by {signal.Signals(number).name}; resume with: scripts/train.py fit --resume {folder}" in said


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_whole_step(
    train: Callable[..., Run], resume: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--trainer.max_epochs=1", "--data.batch_size=128", "--trainer.accumulate_grad_batches=2")
    whole = train(*flags, "--experiment=whole")
    with pytest.raises(SystemExit) as left:
        train(
            *(*flags, "--experiment=broken", "--data.num_workers=2"),
            f"--trainer.callbacks=[{KillsWorkers.__module__}.KillsWorkers]",
        )
    assert left.value.code == 1
    said = capsys.readouterr()
    assert "was killed, as the system does when memory runs out: use fewer with --data.num_workers, a" in said.err
    assert said.err.count("\n") == 1
    (folder,) = tmp_path.glob("runs/broken/*")
    assert f"stopped by an error; resume with: scripts/train.py fit --resume {folder}" in said.out
    assert Run(folder).checkpoint["global_step"] == 2  # that of the third and the fourth batch, as it was killed in one
    run = resume(Run(folder), "--trainer.callbacks=null")
    assert run.results["metrics"] == whole.results["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [("validation", 4), ("test", 8)])
def test_a_signal_is_heeded_in_evaluation_too(
    train: Callable[..., Run], resume: Callable[..., Run], tmp_path: Path, stage: str, step: int
) -> None:
    flags = (*TWO, "--data.val_size=0.3")
    whole = train(*flags, "--experiment=whole")
    with pytest.raises(SystemExit) as left:
        train(*flags, sends(stage, signal.SIGTERM, nth=1), "--experiment=stopped")
    assert left.value.code == 143
    (folder,) = tmp_path.glob("runs/stopped/*")
    assert Run(folder).checkpoint["global_step"] == step
    run = resume(Run(folder), "--trainer.callbacks=null")
    assert run.results["metrics"] == whole.results["metrics"]
    assert timeless_rows(folder) == timeless_rows(whole.folder)


@pytest.mark.slow
def test_a_signal_that_comes_when_training_is_just_over_is_heeded_in_the_test(
    train: Callable[..., Run], resume: Callable[..., Run], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as left:
        train(*TWO, sends("train end", signal.SIGTERM, nth=1))
    assert left.value.code == 143
    (folder,) = tmp_path.glob("runs/*/*")
    assert "test/loss" not in Run(folder).results["metrics"]
    assert "test/loss" in resume(Run(folder), "--trainer.callbacks=null").results["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), STATUSES)
def test_a_signal_before_training_leaves_at_once_and_writes_nothing(
    train: Callable[..., Run], resume: Callable[..., Run], number: int, status: int
) -> None:
    run = train("--trainer.max_epochs=1", "--data.batch_size=256")
    before = run.last.read_bytes()
    with pytest.raises(SystemExit) as left:
        resume(run, sends("fit start", number, nth=1), "--trainer.max_epochs=2")
    assert left.value.code == status
    assert run.last.read_bytes() == before


def test_a_signal_while_packing_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datamodules.packing.pack_writer.image_sums", lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as left:
        main(["fit", *TWO, "--data.root", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")])
    assert left.value.code == 130
    assert "stopped by SIGINT before training began; start again" in capsys.readouterr().out
    assert not list(tmp_path.glob("runs/*/*"))
    assert [file.name for file in tmp_path.glob("data/packs/*")] == [next(tmp_path.glob("data/packs/*.lock")).name]


def test_afterwards_signals_do_what_they_did_before(train: Callable[..., Run]) -> None:
    before = [signal.getsignal(number) for number, _ in STATUSES]
    train(*TWO)
    assert [signal.getsignal(number) for number, _ in STATUSES] == before


def test_a_lost_terminal_is_nothing_to_a_run_that_ignores_it_as_under_nohup(train: Callable[..., Run]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = train("--trainer.max_epochs=1", "--data.batch_size=256", sends("train", signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "test/loss" in run.results["metrics"]


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(data_root: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from models.classifier import Classifier\n"
        "from scripts.train import main\n"
        "def step(*_):\n"
        "    for _ in range(2):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('went on')\n"
        "Classifier.training_step = step\n"
        f"main(['fit', '--data.root', {str(data_root)!r}, '--runs', {str(tmp_path)!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "went on" not in done.stdout
