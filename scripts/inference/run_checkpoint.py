"""The checkpoint of a run, and the run of a checkpoint."""

import os
from pathlib import Path

from callbacks.run.run_folder import CHECKPOINTS, CONFIG, RESULTS
from core.plain_data import read_json
from core.user_error import UserError


def find_checkpoint(path: Path) -> Path:
    """The file itself, or of a run's folder the best checkpoint, else the last."""
    if not path.is_dir():
        return path  # the reader says if it is not there
    if (checkpoint := checkpoint_of(path)) is None:
        raise UserError(
            f"{path} is no folder of a run with a checkpoint: it has no checkpoints/best.ckpt; give one such as "
            "runs/EXPERIMENT/DATE-TIME, or a checkpoint."
        )
    return checkpoint


def checkpoint_of(run: Path) -> Path | None:
    """The best checkpoint of a run, else the last, if it has any."""
    try:
        named = run / read_json(run / RESULTS)["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        named = run
    if not Path(os.path.normpath(named)).is_relative_to(os.path.normpath(run)):
        raise UserError(
            f"{run / RESULTS} names the checkpoint {named}, which is not in the run's folder; if that is what "
            "you want, give the file itself."
        )
    files = (named, run / CHECKPOINTS / "best.ckpt", run / CHECKPOINTS / "last.ckpt")
    return next((file for file in files if file.is_file()), None)


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that has written a checkpoint, if the checkpoint lies in one."""
    folder = checkpoint.absolute().parent.parent
    return folder if (folder / CONFIG).is_file() else None
