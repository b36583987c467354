"""Writing and reading a checkpoint."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from packaging.version import InvalidVersion, Version

from core.durable_file import PART, replacing, unfinished
from core.plain_data import check_plain
from core.user_error import UserError
from models.serialization.checksums import damaged_part

# Of Kindling; in every checkpoint, so that an older Kindling does not guess at what a newer one has written.
VERSION = "0.1.0"


# What a checkpoint holds for others than the Trainer, as far as it has it, and of what type.
CONTENT: dict[str, type] = {
    **dict.fromkeys(("state_dict", "preprocessing", "config", "hyper_parameters", "progress", "curves"), dict),
    "class_names": list,
}


class DurableCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint whole or not at all, whenever the process or the machine dies.

    The file is written beside its target, forced to the disk and renamed. Lightning writes to the system's folder for
    temporary files, which may be on another disk, so that the last step is a copy that a kill can cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; at a remote address, such as `s3://...`, as Lightning does."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write = unfinished if re.fullmatch(PART, target.name) else replacing
        with write(target) as part, part.open("wb") as file:
            torch.save(checkpoint, file)


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the checkpoint that is furthest in training, of those that are whole and that training can go on from.

    Says of each other one that it is left out.
    """
    progress = {}
    for path in sorted(folder.glob("*.ckpt")):
        try:
            checkpoint = _read(path)
            if not is_weights_only(checkpoint):
                progress[path] = (checkpoint["global_step"], path.stat().st_mtime_ns)
        except (ValueError, KeyError) as error:
            print(f"The checkpoint {path} is left out: {error}.")
    return max(progress, key=lambda path: progress[path], default=None)


def is_weights_only(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint predicts, but is nothing that training could go on from."""
    return "optimizer_states" not in checkpoint


def read_checkpoint(path: str | Path, *, verify: bool = True) -> dict[str, Any]:
    """Read a checkpoint of a Classifier; no code in it is run, and weights are read from the file when they are used.

    Its content is compared with the checksums in it, which torch writes and does not look at.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"There is no checkpoint {path}; give a file such as runs/EXPERIMENT/DATE-TIME/checkpoints/best.ckpt."
        )
    try:
        checkpoint = _read(path, verify)
    except ValueError as error:
        raise UserError(f"The checkpoint {path} cannot be read: {error}; use another checkpoint of the run.") from error
    if not {"state_dict", "class_names", "preprocessing"} <= checkpoint.keys():
        raise UserError(
            f"{path} is no checkpoint of this program: it lacks weights, class names or preprocessing; give one that "
            "scripts/train.py has written."
        )
    _refuse_newer(path, checkpoint)
    try:
        _check_content(checkpoint)
    except ValueError as error:
        raise UserError(f"{path} is no checkpoint of this program: {error}; leave it out.") from error
    return checkpoint


def _check_content(checkpoint: dict[str, Any]) -> None:
    for name, kind in CONTENT.items():
        if not isinstance(part := checkpoint.get(name, kind()), kind):
            raise ValueError(f"its {name} are no {kind.__name__}")
        if name != "state_dict":
            check_plain(part)
    if not all(isinstance(name, str) for name in checkpoint["class_names"]):
        raise ValueError("its class_names are not all text")
    for name in ("data", "model", "trainer"):
        if not isinstance(checkpoint.get("config", {}).get(name, {}), dict):
            raise ValueError(f"its config's {name} is no dict")


def _read(path: Path, verify: bool = True) -> dict[str, Any]:
    """What is in a file, or a ValueError with what is wrong with it."""
    try:
        damaged = damaged_part(path) if verify else None
    except Exception as error:  # of a damaged file, whatever its bytes happen to mean
        raise ValueError("it is truncated or damaged") from error
    if damaged is not None:
        raise ValueError(f"it is damaged, {damaged} is not what was written")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        strange = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"it holds code or an object ({strange[1]})" if strange else "it is truncated or damaged"
        ) from error
    return checkpoint if isinstance(checkpoint, dict) else {}


def _refuse_newer(path: Path, checkpoint: dict[str, Any]) -> None:
    versions = checkpoint.get("versions")
    written_by = str(versions.get("kindling", VERSION) if isinstance(versions, dict) else VERSION)
    try:
        newer = Version(written_by) > Version(VERSION)
    except InvalidVersion:
        newer = True
    if newer:
        raise UserError(
            f"The checkpoint {path} was written by Kindling {written_by}, this is Kindling {VERSION}; read it with "
            "that or a later one."
        )
