"""Choose, number, lock and check the folder of a run, which all its ranks share."""

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from core.durable_file import replace_file
from core.plain_data import read_json
from core.user_error import UserError

if TYPE_CHECKING:
    from callbacks.run.jobs import Job

CONFIG = "config.yaml"  # the run's resolved configuration, written before the first step
RESULTS = "results.json"  # the run's results, written after training, and again after the test
NUMBER = "number.txt"  # counts the experiment's starts from 1, because clocks may be set back
CHECKPOINTS = "checkpoints"  # the folder of checkpoints in the run's folder
VARIABLE = "KINDLING_RUN_FOLDER"  # environment variable that passes the folder to the ranks that rank 0 launches

at_release = ExitStack()  # callbacks that `release_folders` runs


def current_job() -> "Job | None":
    """Return the torchrun or SLURM job of this process, if any."""
    if os.environ.keys().isdisjoint(("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_NTASKS")):
        return None
    from callbacks.run.jobs import find_job

    return find_job()


def agree_on_run_folder(experiment: Path, resumed: Path | None = None, label: str = "") -> Path:
    """Create the run's folder on rank 0, and return it on all ranks.

    Ranks that rank 0 launches inherit its environment; ranks that a job launches together share a store. A job that was
    requeued or restarted resumes the unfinished run of its command.
    """
    from lightning.pytorch.utilities import rank_zero_only

    job = current_job()

    def choose() -> Path:
        name, folder = None, resumed
        if job and job.name:
            command = blake2b(repr(sys.argv).encode(errors="surrogateescape"), digest_size=4).hexdigest()
            name = f"job-{job.name}-{command}"
            if folder is None and job.is_restarted:
                runs = (*experiment.glob(name), *experiment.glob(f"{name}_*"))
                unfinished = [run for run in runs if not is_tested(read_results(run))]
                folder = max(unfinished, key=order_of_start, default=None)
        folder = folder or make_run_folder(experiment, name, label)
        os.environ[VARIABLE] = str(folder)
        return folder

    if job and (job.scheduler == "torchrun" or job.processes > 1):
        return job.agree(choose)
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # an attribute of a function
    return choose() if is_first else resumed or Path(os.environ[VARIABLE])


def make_run_folder(experiment: Path, name: str | None = None, label: str = "") -> Path:
    """Create a new folder for a run, even if two runs start in the same second."""
    name = name or f"{datetime.now():%Y-%m-%d_%H-%M-%S}{label}"
    folder, numbers = experiment / name, count(2)
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except OSError as error:
            if not folder.is_dir():
                raise UserError(
                    f"The run folder {folder} cannot be made: {error.strerror}; choose another place with --runs."
                ) from error
            folder = experiment / f"{name}_{next(numbers)}"


def number_start(run: Path) -> None:
    """Number a start of a run: one more than the highest number in the experiment."""
    numbers = [order_of_start(file.parent)[0] for file in run.parent.glob(f"*/{NUMBER}")]
    replace_file(run / NUMBER, f"{max(numbers, default=0) + 1}\n")


def order_of_start(run: Path) -> tuple[int, int]:
    """Sort key: the number of a run's last start, then the time of its start."""
    dated = run / CONFIG if (run / CONFIG).exists() else run
    try:
        number = int((run / NUMBER).read_text())
    except (OSError, ValueError):
        number = 0
    return number, dated.stat().st_mtime_ns


def newest_run(experiment: Path) -> Path:
    """Return the run that was started last."""
    runs = [file.parent for file in experiment.glob(f"*/{CONFIG}")]
    if not runs:
        raise UserError(f"There is no run in {experiment} to resume; give its folder, or leave out --resume.")
    return max(runs, key=order_of_start)


def read_results(run: Path) -> dict[str, Any]:
    """Return a run's `results.json`, or an empty dictionary if it is missing or damaged."""
    try:
        results = read_json(run / RESULTS)
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) and isinstance(results.get("metrics"), dict) else {}


def is_tested(results: Mapping[str, Any]) -> bool:
    """True for the results of a finished run: tested, or trained without a test."""
    return results.get("test") is False or any(name.startswith("test/") for name in results.get("metrics", {}))


def check_is_run(folder: Path) -> None:
    """Raise UserError unless a folder is that of a run."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no folder of a run: it has no {CONFIG}; give runs/EXPERIMENT/DATE-TIME.")


def check_links(folder: Path) -> None:
    """Raise UserError if a link leads out of a resumed run's folder, except for W&B's links to its logs."""
    for path in sorted({*folder.rglob("*")} - {*folder.glob("wandb/**/*")}):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{path} is a link that leads out of the run's folder; replace it by the file, or remove it."
            )


def hold(folder: Path) -> None:
    """Lock a run's folder until `release_folders`; raise UserError if another process holds it."""
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"Another process is training in {folder}; wait for its end, or stop it.") from None
    at_release.callback(lock.release)


def release_folders() -> None:
    """Unlock the run folders of this process, and close its connections to other ranks."""
    at_release.close()
