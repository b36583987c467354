"""Runs that are broken off in every way, and end as if nothing had happened."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.discovery import ROOT
from tests.faults.case import DISK, FEATURES, LOST, NOISE, Case, Laboratory, difference, draw_case
from tests.faults.change import Change, Settings, draw_change
from tests.faults.fault import PLACES, START, Fault

pytestmark = pytest.mark.slow

KILL, TERM, INT, USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1
FILES = FEATURES[0][3]

CASES = {
    "killed in a checkpoint's writing": Case((), (Fault("in a checkpoint's writing", 2, KILL, 0.7),)),
    "killed before a checkpoint's renaming": Case((), (Fault("before a checkpoint's renaming", 3, KILL),)),
    "killed in packing": Case(("--data.mixing=[datamodules.mixing.MixUp]",), (Fault("in packing", 1, KILL),)),
    "killed in a batch, then in a validation": Case(
        (
            *(*NOISE, "--checkpoint.every_minutes=0.000001", "--weight_average=callbacks.ema.EMA"),
            "--finite_guard.on_nan=rollback",
        ),
        (Fault("in a training batch", 8, KILL), Fault("in a validation batch", 3, KILL)),
    ),
    "killed in a table's writing and renewal": Case(
        (), (Fault("in a table's writing", 5, KILL), Fault("in a table's renewal", 1, KILL))
    ),
    "stopped in a batch, then in a validation": Case(
        (*FILES, "--trainer.accumulate_grad_batches=2"),
        (Fault("in a training batch", 4, TERM), Fault("in a validation batch", 1, INT)),
    ),
    "stopped between batches, in a checkpoint's writing, then in a test": Case(
        ("--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"),
        (
            Fault("between batches", 2, USR1),
            Fault("in a checkpoint's writing", 2, TERM),
            Fault("in a test batch", 1, USR1),
        ),
    ),
    "killed at some time": Case((), ((0.9, KILL), (0.5, KILL))),
    "killed between batches, and the last checkpoint is damaged": Case(
        ("--early_stopping=null",), (Fault("between batches", 12, TERM),), damaged=True
    ),
    "killed and stopped after validations within epochs": Case(
        (
            *("--trainer.val_check_interval=2", "--checkpoint.monitor=val/loss", "--early_stopping.monitor=val/loss"),
            *("--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"),
            *("--model.scheduler.patience=0", "--weight_average=callbacks.ema.EMA"),
        ),
        (
            Fault("in a training batch", 4, KILL),
            Fault("between batches", 3, TERM),
            Fault("in a validation batch", 2, INT),
        ),
    ),
    "stopped in the validation of the last weights, within an epoch": Case(
        ("--trainer.max_steps=40", "--data.batch_size=16"), (Fault("in a validation batch", 7, TERM),)
    ),
    "two processes": Case((*NOISE, "--data.balanced=true"), (Fault("in a training batch", 5, TERM),), processes=2),
}

CHANGES = {
    "another peak and length": Change(Settings(), 30, Settings(epochs=3, lr=0.0001)),
    "fewer steps per epoch": Change(Settings(), 30, Settings(epochs=3, accumulated=2)),
    "smaller batches within an epoch": Change(Settings(batch_size=64), 7, Settings(epochs=3, batch_size=48)),
    "smaller and accumulated batches within an epoch": Change(
        Settings(batch_size=24, accumulated=2), 2, Settings(batch_size=16, accumulated=2, schedule="one-cycle")
    ),
    "another seed within an epoch, and by epochs": Change(
        Settings(schedule="one-cycle"), 7, Settings(epochs=4, seed=1, schedule="steps", weight_decay=0.1)
    ),
    "other images within an epoch": Change(Settings(), 3, Settings(epochs=3, limit=300)),
    "an epoch that was cut off, without a schedule": Change(
        Settings(steps=7), 30, Settings(epochs=3, schedule="constant", label_smoothing=0.1), "--data.normalization=none"
    ),
}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    yield laboratory
    laboratory.close()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_broken_run_ends_like_an_unbroken_one(laboratory: Laboratory, case: Case, tmp_path: Path) -> None:
    assert not laboratory.survives(case, tmp_path / "run")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_run_goes_on_with_other_flags_as_steps_and_images_say(
    laboratory: Laboratory, change: Change, tmp_path: Path
) -> None:
    assert not laboratory.follows(change, tmp_path / "run")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs another file system")
def test_so_it_does_with_temporary_files_on_another_file_system(laboratory: Laboratory, tmp_path: Path) -> None:
    case = Case((), (Fault("in a checkpoint's writing", 3, KILL, 0.9),))
    assert not laboratory.survives(case, tmp_path / "run", env={"TMPDIR": "/dev/shm"})


DISKS = {
    "that is full at the start, then when the run is taken up": (
        (
            *(Fault(START, 1, DISK, share) for share in (0, 0.5)),
            Fault("between batches", 9, TERM),
            Fault(START, 1, DISK),
        ),
        ("cannot be packed in", "cannot take a checkpoint of "),
    ),
    "with room for a part of a checkpoint": (
        (Fault("in a checkpoint's writing", 2, DISK, 0.7),),
        (
            "ckpt could not be written (No space left on device); training goes on",
            "last.ckpt could not be written (No space left on device) and is of an earlier time",
        ),
    ),
    "with room for a part of the curves": (
        (Fault("in TensorBoard's writing", 4, DISK, 0.1), Fault("in a table's writing", 4, DISK, 0.0)),
        (LOST, "metrics.csv could not be written"),
    ),
    "with room for a part of a pack": ((Fault("in packing", 1, DISK, 0.2),), ("The data set cannot be packed in",)),
}


@pytest.mark.parametrize(("faults", "words"), DISKS.values(), ids=DISKS)
def test_a_disk_ends_no_run_and_loses_none(
    laboratory: Laboratory, tmp_path: Path, faults: tuple[Fault, ...], words: tuple[str, ...]
) -> None:
    try:
        assert not laboratory.survives(Case((), faults), tmp_path / "small")
    except PermissionError as error:
        pytest.skip(str(error))
    said = laboratory.log(tmp_path / "small").read_text()
    assert [part for part in words if part not in said] == []


def test_the_harness_sees_a_difference(laboratory: Laboratory) -> None:
    runs = [laboratory.unbroken(Case(flags)) for flags in ((), ("--seed_everything=1",))]
    assert not difference(runs[0], runs[0])
    assert "state_dict differs" in difference(*runs)


def test_a_seed_decides_the_cases_and_they_reach_every_place() -> None:
    cases = [draw_case(1, number) for number in range(200)]
    assert cases == [draw_case(1, number) for number in range(200)]
    assert cases != [draw_case(2, number) for number in range(200)]
    faults = [fault for case in cases for fault in case.faults if isinstance(fault, Fault)]
    assert {fault.place for fault in faults if fault.signal} == set(PLACES)
    assert {fault.place for fault in faults if fault.signal == DISK} == {*PLACES, START}
    assert any(case.processes == 2 for case in cases)
    assert draw_change(1, 2) == draw_change(1, 2) != draw_change(2, 2)


def test_soak_tells_what_survived(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.soak", "--only", "18", "--seed", "5", "--keep", tmp_path / "kept"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "survived 1 / 1 (seed 5)"
