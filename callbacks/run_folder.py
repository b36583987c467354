"""A folder for each run, the same in all its processes."""

import os
import sys
from contextlib import suppress
from datetime import datetime
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in its __all__

from callbacks import slurm

CONFIG = "config.yaml"
"""The run's resolved configuration, in its folder from before the first step."""

CHECKPOINTS = "checkpoints"
"""The folder of checkpoints in the run's folder."""

VARIABLE = "KINDLING_RUN_FOLDER"
"""Tells the folder to the processes that the first one starts."""

_held: list[FileLock] = []


def with_split_rule(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run, with the rule of its splits where it is from before there was another.

    Args:
        config: Any configuration; one that does not say all there is to say of data is no run's, and stays as it is.
    """
    data: Any = config.get("data")
    given = data.get("init_args") if isinstance(data, dict) else None
    if not isinstance(given, dict) or "split_rule" in given or not {"split_seed", "drop_last"} <= given.keys():
        return config
    return config | {"data": data | {"init_args": given | {"split_rule": "shuffle"}}}


def agree_on_run_folder(experiment: Path, resumed: Path | None = None) -> Path:
    """Make the run's folder in its first process, and learn of it in the others.

    Processes that the first one starts inherit its environment; those that torchrun starts ask torchrun's store, which
    also knows the folder when it starts them again after a failure; those of a job of SLURM find the folder by the
    job's number and the command line, also when the job is queued again.

    Args:
        experiment: The folder of all runs of the experiment.
        resumed: The folder, if it is already known.

    Returns:
        The folder: new, or that of a run to go on with.

    Raises:
        MisconfigurationException: If it cannot be made.
    """
    first = _get_rank() in (None, 0)
    folder = resumed
    if folder is None and slurm.job():
        command = blake2b(repr(sys.argv).encode(errors="surrogateescape"), digest_size=4).hexdigest()
        folder = experiment / f"job-{slurm.job()}-{command}"
        _make(folder, new=False)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        if first and not store.check([VARIABLE]):
            store.set(VARIABLE, str(folder or make_run_folder(experiment)))
        return Path(store.get(VARIABLE).decode())
    if first:
        folder = folder or make_run_folder(experiment)
        os.environ[VARIABLE] = str(folder)
        return folder
    return folder or Path(os.environ[VARIABLE])


def newest_run(experiment: Path) -> Path:
    """Find the run that was started last.

    Args:
        experiment: The folder of all runs of the experiment.

    Raises:
        MisconfigurationException: If there is none.
    """
    runs = [file.parent for file in experiment.glob(f"*/{CONFIG}")]
    if not runs:
        raise MisconfigurationException(
            f"There is no run in {experiment} to go on with; give its folder, --resume runs/EXPERIMENT/DATE-TIME, or "
            "leave out --resume to begin one."
        )
    return max(runs, key=lambda run: (run / CONFIG).stat().st_mtime_ns)


def hold(folder: Path) -> None:
    """Keep a run's folder for this process until `release_folders`.

    Args:
        folder: The folder.

    Raises:
        MisconfigurationException: If another process trains in it.
    """
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise MisconfigurationException(
            f"Another process is training in {folder}; wait for its end, or stop it."
        ) from None
    _held.append(lock)


def wait_until_left(folder: Path, seconds: float) -> None:
    """Wait until no process trains in a run's folder, but not for ever.

    Args:
        folder: The folder.
        seconds: How long at most.
    """
    lock = FileLock(folder / ".lock", timeout=seconds)
    with suppress(Timeout), lock:
        pass


def release_folders() -> None:
    """Leave the run folders that are held to others."""
    while _held:
        _held.pop().release()


def make_run_folder(experiment: Path) -> Path:
    """Make the folder `experiment/<date-time>` for one run alone, even when two start in the same second.

    Args:
        experiment: The folder of all runs of the experiment.

    Returns:
        The new, empty folder.

    Raises:
        MisconfigurationException: If it cannot be made.
    """
    started = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for number in count(1):
        folder = experiment / (started if number == 1 else f"{started}_{number}")
        if _make(folder, new=True):
            return folder
    raise AssertionError("count never ends")


def _make(folder: Path, *, new: bool) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=not new)
    except FileExistsError:
        if not folder.is_dir():
            raise MisconfigurationException(
                f"The run folder {folder} cannot be made: a file is in its way; choose another place with --runs."
            ) from None
        return False
    except OSError as error:
        raise MisconfigurationException(
            f"The run folder {folder} cannot be made: {error.strerror}; choose another place with --runs."
        ) from error
    return True
