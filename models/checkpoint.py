"""Writing and reading a checkpoint."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from packaging.version import InvalidVersion, Version

VERSION = "0.1.0"
"""Of Kindling; in every checkpoint, so that an older Kindling does not guess at what a newer one has written."""


class DurableCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint whole or not at all, whenever the process or the machine dies.

    The file is written beside its target, forced to the disk and renamed. Lightning writes to the system's folder for
    temporary files, which may be on another disk, so that the last step is a copy that a kill can cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; at a remote address, such as `s3://...`, as Lightning does.

        Args:
            checkpoint: What to write.
            path: The file.
            storage_options: Not used.

        Raises:
            OSError: If it cannot be written; a file that was there before is kept.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder of checkpoints.

    Args:
        folder: The folder, into which nobody else is writing.
    """
    for part in folder.glob(".*.ckpt.*"):
        part.unlink()


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the checkpoint that is furthest in training, of those that are whole.

    Says of each damaged one that it is left out.

    Args:
        folder: The folder of checkpoints.

    Returns:
        The file, or None if there is none.
    """
    progress = {}
    for path in folder.glob("*.ckpt"):
        try:
            check_whole(path)
            progress[path] = (read_checkpoint(path)["global_step"], path.stat().st_mtime_ns)
        except MisconfigurationException as error:
            print(f"{error} It is left out.")
    return max(progress, key=lambda path: progress[path], default=None)


def check_whole(path: str | Path) -> None:
    """Compare a checkpoint with the checksums in it, which torch writes and does not look at.

    Args:
        path: The file.

    Raises:
        MisconfigurationException: If it cannot be read, or a bit of its content is not what was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise MisconfigurationException(f"The checkpoint {path} is damaged: {error}.") from error
    if damaged is not None:
        raise MisconfigurationException(f"The checkpoint {path} is damaged: {damaged} is not what was written.")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a Classifier; no code in it is run, and weights are read from the file when they are used.

    Args:
        path: The file.

    Returns:
        The checkpoint: plain types, and tensors on the CPU.

    Raises:
        MisconfigurationException: If there is no such file, or it is damaged, another program's or a newer Kindling's.
    """
    path = Path(path)
    if not path.is_file():
        raise MisconfigurationException(
            f"There is no checkpoint {path}; give a file such as runs/EXPERIMENT/DATE-TIME/checkpoints/best.ckpt."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        strange = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds code or an object ({strange[1]})" if strange else "it is truncated or damaged"
        raise MisconfigurationException(
            f"The checkpoint {path} cannot be read: {reason}; use another checkpoint of the run."
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "class_names", "preprocessing"} <= checkpoint.keys():
        raise MisconfigurationException(
            f"{path} is no checkpoint of this program: it lacks weights, class names or preprocessing; give one that "
            "scripts/train.py has written."
        )
    _refuse_newer(path, checkpoint)
    return checkpoint


def _refuse_newer(path: Path, checkpoint: dict[str, Any]) -> None:
    versions = checkpoint.get("versions")
    written_by = str(versions.get("kindling", VERSION) if isinstance(versions, dict) else VERSION)
    try:
        newer = Version(written_by) > Version(VERSION)
    except InvalidVersion:
        newer = True
    if newer:
        raise MisconfigurationException(
            f"The checkpoint {path} was written by Kindling {written_by}, this is Kindling {VERSION}; read it with "
            "that or a later one."
        )
