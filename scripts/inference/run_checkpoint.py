"""Find the checkpoint of a run, and the run of a checkpoint."""

import os
from pathlib import Path

from callbacks.run.run_folder import CHECKPOINTS, CONFIG, RESULTS
from core.plain_data import read_json
from core.user_error import UserError


def find_checkpoint(path: Path) -> Path:
    """Return a checkpoint file as it is, and for a run's folder its best checkpoint, else its last."""
    if not path.is_dir():
        return path  # read_checkpoint reports a missing file
    if (checkpoint := checkpoint_of(path)) is None:
        raise UserError(
            f"{path} is no folder of a run with a checkpoint: it has no checkpoints/best.ckpt; give a run's folder, "
            "such as runs/EXPERIMENT/DATE-TIME, or a checkpoint."
        )
    return checkpoint


def checkpoint_of(run: Path) -> Path | None:
    """Return the best checkpoint of a run, else its last; None if it has no checkpoint."""
    try:
        best = run / read_json(run / RESULTS)["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        best = run / CHECKPOINTS / "best.ckpt"
    if not Path(os.path.normpath(best)).is_relative_to(os.path.normpath(run)):
        raise UserError(
            f"{run / RESULTS} names the checkpoint {best}, which is not in the run's folder; to use that file, give "
            "its path."
        )
    files = (best, run / CHECKPOINTS / "best.ckpt", run / CHECKPOINTS / "last.ckpt")
    return next((file for file in files if file.is_file()), None)


def run_of(checkpoint: Path) -> Path | None:
    """Return the folder of the run that a checkpoint lies in; None if it lies in no run."""
    folder = checkpoint.absolute().parent.parent
    return folder if (folder / CONFIG).is_file() else None
