"""A folder for each run, the same in all its processes."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in its __all__

from callbacks.run import slurm, torchrun
from callbacks.run.peers import come_together, part, signs_of_life, watch
from core.durable_file import replace_file
from core.plain_data import read_json
from core.user_error import UserError

CONFIG = "config.yaml"  # the run's resolved configuration, in its folder from before the first step

RESULTS = "results.json"  # the run's figures, in its folder when training is over, and again after the test

NUMBER = "number.txt"  # which start in the experiment the run's last one was, counted from 1: clocks may be set back

# What is written into the run's folder besides checkpoints and what a user puts there.
RECORDS = "*.yaml", "*.json", "*.csv", "*.txt", "*.patch", "events.out.tfevents.*"

CHECKPOINTS = "checkpoints"  # the folder of checkpoints in the run's folder

VARIABLE = "KINDLING_RUN_FOLDER"  # tells the folder to the processes that the first one starts

_held: list[FileLock] = []


def agree_on_run_folder(experiment: Path, resumed: Path | None = None) -> Path:
    """Make the run's folder in its first process, and learn of it in the others.

    Processes that the first one starts inherit its environment; those that torchrun starts ask torchrun's store, which
    also knows the folder when it starts them again after a failure; those that srun starts, or a torchrun that shares
    no store, ask the first one. A job that was queued or started again goes on with what its command has begun and not
    finished.
    """
    from lightning.fabric.utilities.rank_zero import _get_rank

    first = _get_rank() in (None, 0)
    job, is_again = slurm.job() or torchrun.job(), slurm.was_queued_again() or torchrun.has_started_again()
    store: TCPStore | None = None
    if torchrun.has_started_this():
        store = come_together(lambda: torchrun.store(is_first=first))
    elif slurm.tasks() > 1:
        store = come_together(lambda: slurm.store(is_first=first))
        # A connection of its own, because one that waits for an answer is closed to others.
        watch(signs_of_life(slurm.store(is_first=first), _get_rank() or 0, slurm.tasks()))
    if first and not (store and store.check([VARIABLE])):
        name = None
        if job:
            command = blake2b(repr(sys.argv).encode(errors="surrogateescape"), digest_size=4).hexdigest()
            name = f"job-{job}-{command}"
        folder = resumed
        if folder is None and name and is_again:
            folder = _newest_unfinished(experiment, name)
        folder = folder or make_run_folder(experiment, name)
        os.environ[VARIABLE] = str(folder)
        if store:
            store.set(VARIABLE, str(folder))
        return folder
    if store is None:
        return resumed or Path(os.environ[VARIABLE])
    asked = store
    return Path(come_together(lambda: asked.get(VARIABLE)).decode())


def _newest_unfinished(experiment: Path, name: str) -> Path | None:
    runs = [run for run in (*experiment.glob(name), *experiment.glob(f"{name}_*")) if not is_tested(read_results(run))]
    return max(runs, key=order_of_start, default=None)


def number_start(run: Path) -> None:
    """Give a run's start the number that follows those of all starts of the experiment's runs."""
    before = [order_of_start(file.parent)[0] for file in run.parent.glob(f"*/{NUMBER}")]
    replace_file(run / NUMBER, f"{max(before, default=0) + 1}\n")


def order_of_start(run: Path) -> tuple[int, int]:
    """Sort key: the number of a run's last start, or the time of it where a run has no number."""
    try:
        with (run / NUMBER).open("rb") as file:
            number = file.read(20).strip()
    except OSError:
        number = b""
    started = run / CONFIG if (run / CONFIG).exists() else run
    return int(number) if number.isdigit() and len(number) < 18 else 0, started.stat().st_mtime_ns


def read_results(run: Path) -> dict[str, Any]:
    """A run's figures as in `results.json`; none if there are none."""
    try:
        results = read_json(run / RESULTS)
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) and isinstance(results.get("metrics"), dict) else {}


def is_tested(results: Mapping[str, Any]) -> bool:
    """Whether figures are those of a run that has come to its end."""
    return any(name.startswith("test/") for name in results.get("metrics", {}))


def read_records(run: Path) -> dict[Path, bytes]:
    """What a run's folder holds of what starting or going on with it writes, without its checkpoints."""
    return {file: file.read_bytes() for pattern in RECORDS for file in run.glob(pattern)}


def put_back(run: Path, records: Mapping[Path, bytes]) -> None:
    """Make a run's folder what it was."""
    now = read_records(run)
    for file in now.keys() - records.keys():
        file.unlink()
    for file, content in records.items():
        if now.get(file) != content:
            replace_file(file, content)


def newest_run(experiment: Path) -> Path:
    """Find the run that was started last."""
    runs = [file.parent for file in experiment.glob(f"*/{CONFIG}")]
    if not runs:
        raise UserError(
            f"There is no run in {experiment} to go on with; give its folder, --resume runs/EXPERIMENT/DATE-TIME, or "
            "leave out --resume to begin one."
        )
    return max(runs, key=order_of_start)


def refuse_links(folder: Path) -> None:
    """See that a run that goes on in its folder writes nowhere else."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{path} is a link that leads out of the run's folder, and what is written there would be written "
                "elsewhere; put what it leads to in its place, or remove it."
            )


def hold(folder: Path) -> None:
    """Keep a run's folder for this process until `release_folders`."""
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"Another process is training in {folder}; wait for its end, or stop it.") from None
    _held.append(lock)


def wait_until_left(folder: Path, seconds: float) -> None:
    """Wait until no process trains in a run's folder, but not for ever."""
    lock = FileLock(folder / ".lock", timeout=seconds)
    with suppress(Timeout), lock:
        pass


def release_folders() -> None:
    """Leave the run folders that are held to others, and tell no other process of them any more."""
    part()
    while _held:
        _held.pop().release()


def make_run_folder(experiment: Path, name: str | None = None) -> Path:
    """Make a folder for one run alone, even when two start in the same second."""
    name = name or f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for number in count(1):
        folder = experiment / (name if number == 1 else f"{name}_{number}")
        if _make(folder):
            return folder
    raise AssertionError("count never ends")


def _make(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise UserError(
                f"The run folder {folder} cannot be made: a file is in its way; choose another place with --runs."
            ) from None
        return False
    except OSError as error:
        raise UserError(
            f"The run folder {folder} cannot be made: {error.strerror}; choose another place with --runs."
        ) from error
    return True
