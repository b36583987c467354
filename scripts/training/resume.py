"""Resume or repeat a run; loaded only for `--resume` and `--like`, and when a run stops early."""

from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from signal import SIGUSR1
from typing import TYPE_CHECKING, Any, NamedTuple

from callbacks.checkpoint import check_checkpoint_fits
from callbacks.curves import cut_curves
from callbacks.run.run_folder import CHECKPOINTS, CONFIG, check_is_run, newest_run
from core.durable_file import remove_leftovers, replace_file
from core.stopping import Stopped
from core.user_error import UserError
from models.serialization.checkpoint import newest_checkpoint, read_checkpoint
from scripts.command.boundary import CommandParser
from scripts.command.expansion import to_path
from scripts.training.run_place import RunPlace

if TYPE_CHECKING:
    from callbacks.run.jobs import Job

# Files that the start of a run writes into its folder, besides checkpoints.
RECORDS = "*.yaml", "*.json", "*.csv", "*.txt", "*.patch", "events.out.tfevents.*"

NEWEST = Path("NEWEST")  # the value of `--resume` without a folder


class EarlierRun(NamedTuple):
    """The run that `--resume` or `--like` names, and the other flags of `fit`."""

    flags: list[str]
    resumed: Path | None  # the folder of the run to resume
    original: Path | None  # the folder of the run to repeat


def find_earlier_run(args: list[str], experiment_of: Callable[[list[str]], Path]) -> EarlierRun:
    """Parse `--resume` and `--like`; without a folder, `--resume` means the experiment's newest run."""
    parser = CommandParser(prog="scripts/train.py fit", add_help=False)
    parser.add_argument("--resume", nargs="?", type=to_path, const=NEWEST)
    parser.add_argument("--like", type=to_path)
    options, flags = parser.parse_known_args(args)
    resumed, original = options.resume, options.like
    names = {flag.partition("=")[0] for flag in flags}
    if bool(resumed) + bool(original) + ("--ckpt_path" in names) > 1:
        raise UserError("--resume, --like and --ckpt_path exclude each other; give one of them.")
    if original:
        from scripts.training.reproducibility import check_complete

        check_complete(original)
        return EarlierRun(["--config", str(original / CONFIG), *flags], None, original)
    if names & {"--data.folds", "--data.fold"}:
        raise UserError("A resumed run keeps its fold, because it was trained on the others; leave out the flag.")
    from callbacks.run.restarts import repeated_run

    resumed = newest_run(experiment_of(flags)) if resumed == NEWEST else resumed
    check_is_run(resumed)
    return EarlierRun(flags, resumed, repeated_run(resumed))


def prepare_resume(place: RunPlace) -> Path | None:
    """Cut a run's curves to its newest checkpoint, and return the checkpoint; None if the run has none."""
    checkpoints = place.folder / CHECKPOINTS
    if place.is_rank_zero:
        remove_leftovers(place.folder)
        remove_leftovers(checkpoints)
    path = newest_checkpoint(checkpoints)
    if place.is_rank_zero:
        size = path.stat().st_size if path else 0
        # Check before any change that `restore_records` has room to undo it.
        check_checkpoint_fits(checkpoints, size + sum(map(len, place.records.values())))
        checkpoint: Mapping[str, Any] = read_checkpoint(path) if path else {}
        place.step = checkpoint.get("global_step", 0)
        place.cut = cut_curves(place.folder, checkpoint.get("curves", {}))
        print(f"resuming {place.folder} after step {place.step:,}")
    return path


def read_records(folder: Path) -> dict[Path, bytes]:
    """Return the content of each file in a run's folder, without its checkpoints."""
    return {file: file.read_bytes() for pattern in RECORDS for file in folder.glob(pattern)}


def restore_records(folder: Path, records: Mapping[Path, bytes]) -> None:
    """Restore the content of these files, and delete files that were added."""
    current = read_records(folder)
    for file in current.keys() - records.keys():
        file.unlink()
    for file, content in records.items():
        if current.get(file) != content:
            replace_file(file, content)


def print_resume_hint(error: BaseException, folder: Path, job: "Job | None") -> None:
    """Print how to resume a run that a signal or an error has stopped; remove its folder if it has not begun.

    After SIGUSR1, a SLURM job is queued again.
    """
    cause = error.signal.name if isinstance(error, Stopped) else "an error"
    if (folder / CONFIG).is_file():
        print(f"stopped by {cause}; resume with: scripts/train.py fit --resume {folder}")
    else:
        print(f"stopped by {cause} before training began; start again")
        rmtree(folder, ignore_errors=True)
    if job and isinstance(error, Stopped) and error.signal == SIGUSR1:
        job.queue_again()
