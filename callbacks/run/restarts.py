"""How a later start of a run, or a repeated run, differs from the first."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from callbacks.run.migration import migrate_config
from callbacks.run.origin import CONSTRAINTS, ORIGIN, Facts, code, packages
from callbacks.run.run_folder import CONFIG
from core.durable_file import replace_file
from core.names import escape_name
from core.plain_data import read_json
from datamodules.packing.pack import FINGERPRINT

RESTARTS = "restarts.json"  # in the run's folder: the later starts that differed from the first

# Facts of a start that make no difference to what is computed, or are configured; early runs have `untracked` files.
PASSING = ("started", "command", "directory", "seed", "repeats", "untracked")

# What is said of a fact whose two values say nothing to a reader.
UNREADABLE = {
    "changes": "code: other changes since the commit",
    "data_fingerprint": "data: other images, file names or labels than before",
    "torch.build": "torch: built with other options",
}


def note_restart(folder: Path, start: Facts, step: int, config: Mapping[str, Any]) -> list[str]:
    """Add to `restarts.json` how a later start differs from the first, and give it in sentences."""
    before = migrate_config(yaml.safe_load((folder / CONFIG).read_text()))
    configured = {f"config {key}": values for key, values in differences(flat(before), flat(config)).items()}
    if (origin := read_origin(folder)) is None:
        return []
    changed = differences(origin, origin_facts(start, packages())) | configured
    if not changed:
        return []
    restarts = read_restarts(folder)
    entry: Facts = {key: start[key] for key in PASSING if key in start}
    entry |= {"step": step, "differs": {key: {"was": was, "is": is_} for key, (was, is_) in changed.items()}}
    if "changes" in changed and (changes := code().changes):
        entry["patch"] = f"changes_{len(restarts) + 1}.patch"
        replace_file(folder / entry["patch"], changes)
    replace_file(folder / RESTARTS, json.dumps([*restarts, entry], indent=1) + "\n")
    return sentences(changed)


def read_origin(folder: Path) -> Facts | None:
    """The facts of a run's first start, flat and with its packages; None if they are missing or damaged."""
    try:
        start = read_json(folder / ORIGIN)
        lines = (folder / CONSTRAINTS).read_text().splitlines()
        return origin_facts(start, dict(line.split("==", 1) for line in lines))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def repeated_run(folder: Path) -> Path | None:
    """The folder of the run that this one repeats, if there is one and it still exists."""
    original = (read_origin(folder) or {}).get("repeats")
    return Path(original) if isinstance(original, str) and Path(original).is_dir() else None


def read_restarts(folder: Path) -> list[Facts]:
    """The later starts of a run that differed from the first."""
    try:
        restarts = read_json(folder / RESTARTS)
        whole = [all({"was", "is"} <= change.keys() for change in each["differs"].values()) for each in restarts]
        return [each for each, is_whole in zip(restarts, whole, strict=True) if is_whole and "step" in each]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def origin_facts(start: Facts, versions: Mapping[str, str]) -> Facts:
    """A start and its packages as one flat mapping."""
    return flat(start) | {f"package {name}": version for name, version in versions.items()}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Facts:
    """A mapping of mappings as one, with dots between the keys."""
    leaves: Facts = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def differences(one: Facts, other: Facts) -> dict[str, tuple[Any, Any]]:
    """The facts that differ between two flat mappings, each with both values, without those that cannot matter."""
    pairs = {key: (one.get(key, "none"), other.get(key, "none")) for key in {**one, **other} if key not in PASSING}
    if not all(str(each).startswith(FINGERPRINT) for each in pairs.get("data_fingerprint", ())):
        del pairs["data_fingerprint"]  # an older run knows its files, not its images
    return {key: values for key, values in pairs.items() if values[0] != values[1]}


def sentences(changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Each difference as a line."""
    return [UNREADABLE.get(key) or escape_name(f"{key}: {is_}, was {was}") for key, (was, is_) in changed.items()]
