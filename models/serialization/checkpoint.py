"""Write and read a checkpoint."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Required, TypedDict, cast, get_origin, get_type_hints

import torch

from core.durable_file import PART, replacing, unfinished
from core.plain_data import check_plain
from core.user_error import UserError
from models.serialization.checksums import damaged_part

VERSION = "0.1.0"  # of Kindling; every checkpoint names it

FORMAT_VERSION = 1  # of `CheckpointContent`; raised when an older Kindling would misread a newer checkpoint


class CheckpointContent(TypedDict, total=False):
    """The parts of a checkpoint that Kindling reads; the Trainer and its callbacks add their states."""

    format_version: int  # absent before there was one, which means 1
    state_dict: Required[dict[str, Any]]  # weights of the classifier; the network's begin with `network.`
    raw_state_dict: dict[str, Any]  # where `state_dict` is an average: the weights that training goes on from
    class_names: Required[list[str]]
    preprocessing: Required[dict[str, Any]]  # channels, image_size, resize, mean and std
    thresholds: list[float]  # of several labels per image: the probability above which each is predicted
    hyper_parameters: dict[str, Any]  # the classifier's constructor arguments
    config: dict[str, Any]  # the run's resolved configuration
    data_fingerprint: str | None
    data_images: Mapping[str, Any] | None  # digests of the images of each split
    git_commit: str | None
    versions: dict[str, str]  # of Kindling and of the libraries that decide what a run computes
    epoch: int
    global_step: int
    optimizer_states: list[Any]  # absent in weights alone
    lr_schedulers: list[Any]
    callbacks: dict[str, Any]
    counts: dict[str, Any]  # metrics of each process in the epoch, in earlier checkpoints; now summed in `state_dict`
    curves: dict[str, Any]  # sizes of the curves' files
    progress: dict[str, Any]  # images, metrics and seconds of the run so far
    averaged: list[dict[str, Any]]  # the checkpoints that scripts/average.py has averaged


# Parts that a stranger's file may hold as anything: their type is checked before they are used.
CHECKED = (
    *("state_dict", "class_names", "preprocessing", "hyper_parameters", "config", "curves", "progress", "thresholds"),
)


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Replace a checkpoint whole or not at all, whenever the process or the machine dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write = unfinished if re.fullmatch(PART, path.name) else replacing
    with write(path) as part, part.open("wb") as file:
        torch.save(checkpoint, file)


def read_checkpoint(path: str | Path, *, verify: bool = True) -> CheckpointContent:
    """Read a checkpoint; no code in it is run, and weights are read from the file when they are used.

    Its bytes are compared with the checksums in it, which `torch.load` does not do.
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
    """Find the checkpoint that is furthest in training, of those that training can go on from; name damaged ones."""
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
    """Whether a checkpoint can predict, but training cannot go on from it."""
    return "optimizer_states" not in checkpoint


def _read(path: Path, verify: bool = True) -> dict[str, Any]:
    """The content of a file; raises ValueError with the fault of the file."""
    try:
        if verify and (damaged := damaged_part(path)):
            raise ValueError(f"{damaged} is not what was written")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged archive raises anything
        strange = re.search(r"GLOBAL (\S+)", str(error))
        fault = f"it holds code or an object ({strange[1]})" if strange else "it is truncated or damaged"
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
        kind = get_origin(types[name])
        if not isinstance(part := checkpoint.get(name, kind()), kind):
            raise ValueError(f"its {name} are no {kind.__name__}")
        if name != "state_dict":
            check_plain(part)
    for name, kind in (("class_names", str), ("thresholds", float)):
        if not all(isinstance(value, kind) for value in checkpoint.get(name, ())):
            raise ValueError(f"its {name} are not all {kind.__name__}")
    for name in ("data", "model", "trainer"):
        if not isinstance(checkpoint.get("config", {}).get(name, {}), dict):
            raise ValueError(f"its config's {name} is no dict")
