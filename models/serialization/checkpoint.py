"""Write and read checkpoints."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Required, TypedDict, cast, get_origin, get_type_hints

import torch

from core.durable_file import PART, replacing, unfinished
from core.plain_data import check_plain
from core.user_error import UserError
from models.serialization.checksums import damaged_part

VERSION = "0.1.0"  # Kindling's version, written into every checkpoint

# Version of `CheckpointContent`. Increase it when an older Kindling would misread a new checkpoint.
FORMAT_VERSION = 1


class CheckpointContent(TypedDict, total=False):
    """The parts of a checkpoint that Kindling reads; the Trainer and its callbacks add their states."""

    format_version: int  # 1 if absent
    state_dict: Required[dict[str, Any]]  # weights of the classifier; the network's have the prefix `network.`
    raw_state_dict: dict[str, Any]  # weights to resume from, if `state_dict` is an average of weights
    class_names: Required[list[str]]
    preprocessing: Required[dict[str, Any]]  # channels, image_size, resize, mean and std
    thresholds: list[float]  # multi-label: the probability above which each label is predicted
    hyper_parameters: dict[str, Any]  # the classifier's constructor arguments
    config: dict[str, Any]  # the run's resolved configuration
    data_fingerprint: str | None
    data_images: Mapping[str, Any] | None  # hashes of the images of each split
    git_commit: str | None
    versions: dict[str, str]  # of Kindling and of the libraries that affect results
    epoch: int
    global_step: int
    optimizer_states: list[Any]  # absent in a weights-only checkpoint
    lr_schedulers: list[Any]
    callbacks: dict[str, Any]
    counts: dict[str, Any]  # only in earlier checkpoints: the epoch's metric sums of each rank
    curves: dict[str, Any]  # size of each file of curves in bytes
    progress: dict[str, Any]  # images, metrics and seconds of the run so far
    averaged: list[dict[str, Any]]  # the checkpoints that scripts/average.py averaged


# Parts whose type is checked on reading, because an untrusted file may hold anything.
CHECKED = (
    *("state_dict", "class_names", "preprocessing", "hyper_parameters", "config", "curves", "progress", "thresholds"),
)


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write or replace a checkpoint atomically, so that a kill or a power cut cannot damage it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write = unfinished if re.fullmatch(PART, path.name) else replacing
    with write(path) as part, part.open("wb") as file:
        torch.save(checkpoint, file)


def read_checkpoint(path: str | Path, *, verify: bool = True) -> CheckpointContent:
    """Read a checkpoint without running code in it. The weights are memory-mapped.

    `verify` compares its bytes with its checksums, which `torch.load` does not do.

    Raises:
        UserError: If the file is missing, damaged or not a checkpoint that this Kindling reads.
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
    try:
        _check(checkpoint)
    except ValueError as error:
        raise UserError(
            f"{path} is no checkpoint that Kindling {VERSION} reads: {error}; give another, or use the Kindling that "
            "has written it."
        ) from error
    return cast(CheckpointContent, checkpoint)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint with the most steps that a run can resume from; print the damaged ones."""
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
    """Return True if a checkpoint can predict, but a run cannot resume from it."""
    return "optimizer_states" not in checkpoint


def _read(path: Path, verify: bool = True) -> dict[str, Any]:
    """Return the content of a file; raise ValueError if it is damaged or holds code."""
    try:
        if verify and (damaged := damaged_part(path)):
            raise ValueError(f"{damaged} is not what was written")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged archive raises anything
        object_name = re.search(r"GLOBAL (\S+)", str(error))
        fault = f"it holds code or an object ({object_name[1]})" if object_name else "it is truncated or damaged"
        raise ValueError(fault) from error
    return checkpoint if isinstance(checkpoint, dict) else {}


def _check(checkpoint: Mapping[str, Any]) -> None:
    version = checkpoint.get("format_version", 1)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        versions = checkpoint.get("versions")
        written_by = versions.get("kindling", "newer") if isinstance(versions, dict) else "newer"
        raise ValueError(f"it was written by Kindling {written_by} in format {version}")
    if not CheckpointContent.__required_keys__ <= checkpoint.keys():
        raise ValueError("it lacks weights, class names or preprocessing")
    types = get_type_hints(CheckpointContent)
    for name in CHECKED:
        expected_type = get_origin(types[name])
        part = checkpoint.get(name, expected_type())
        if not isinstance(part, expected_type):
            raise ValueError(f"its {name} are no {expected_type.__name__}")
        if name != "state_dict":
            check_plain(part)
    for name, value_type in (("class_names", str), ("thresholds", float)):
        if not all(isinstance(value, value_type) for value in checkpoint.get(name, ())):
            raise ValueError(f"its {name} are not all {value_type.__name__}")
    for name in ("data", "model", "trainer"):
        if not isinstance(checkpoint.get("config", {}).get(name, {}), dict):
            raise ValueError(f"its config's {name} is no dict")
