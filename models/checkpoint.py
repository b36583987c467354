"""Writing and reading a checkpoint."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException


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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a Classifier; no code in it is run, and weights are read from the file when they are used.

    Args:
        path: The file.

    Returns:
        The checkpoint: plain types, and tensors on the CPU.

    Raises:
        MisconfigurationException: If there is no such file, or it is damaged or another program's.
    """
    path = Path(path)
    if not path.is_file():
        raise MisconfigurationException(
            f"There is no checkpoint {path}; give a file such as runs/EXPERIMENT/DATE-TIME/checkpoints/best.ckpt."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise MisconfigurationException(
            f"The checkpoint {path} cannot be read: it is truncated, damaged or holds code; use another checkpoint of "
            "the run."
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "class_names", "preprocessing"} <= checkpoint.keys():
        raise MisconfigurationException(
            f"{path} is no checkpoint of this program: it lacks weights, class names or preprocessing; give one that "
            "scripts/train.py has written."
        )
    return checkpoint
