"""Compare a later start of a run, or a repeated run, with the first start."""

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

RESTARTS = "restarts.json"  # in the run's folder: lists the later starts that differed from the first

# Facts of a start that do not affect results, or are part of the configuration; early runs have `untracked`.
IGNORED = ("started", "command", "directory", "seed", "repeats", "untracked")

# Messages for facts whose values, such as hashes, tell a reader nothing.
OPAQUE = {
    "changes": "code: other changes since the commit",
    "data_fingerprint": "data: other images, file names or labels than before",
    "torch.build": "torch: built with other options",
}


def note_restart(folder: Path, start: Facts, step: int, config: Mapping[str, Any]) -> list[str]:
    """Append the differences between a later start and the first to `restarts.json`; return them as messages."""
    first_config = migrate_config(yaml.safe_load((folder / CONFIG).read_text()))
    config_changes = differences(flat(first_config), flat(config))
    origin = read_origin(folder)
    if origin is None:
        return []
    changed = differences(origin, origin_facts(start, packages()))
    changed |= {f"config {key}": values for key, values in config_changes.items()}
    if not changed:
        return []
    restarts = read_restarts(folder)
    entry: Facts = {key: start[key] for key in IGNORED if key in start}
    entry |= {"step": step, "differs": {key: {"was": old, "is": new} for key, (old, new) in changed.items()}}
    if "changes" in changed and (changes := code().changes):
        entry["patch"] = f"changes_{len(restarts) + 1}.patch"
        replace_file(folder / entry["patch"], changes)
    replace_file(folder / RESTARTS, json.dumps([*restarts, entry], indent=1) + "\n")
    return difference_lines(changed)


def read_origin(folder: Path) -> Facts | None:
    """Return the flat facts of a run's first start and its packages; None if they are missing or damaged."""
    try:
        start = read_json(folder / ORIGIN)
        lines = (folder / CONSTRAINTS).read_text().splitlines()
        return origin_facts(start, dict(line.split("==", 1) for line in lines))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def repeated_run(folder: Path) -> Path | None:
    """Return the folder of the run that `--like` repeats, if it still exists."""
    original = (read_origin(folder) or {}).get("repeats")
    return Path(original) if isinstance(original, str) and Path(original).is_dir() else None


def read_restarts(folder: Path) -> list[Facts]:
    """Return the later starts of a run that differed from the first, without damaged entries."""
    try:
        restarts = read_json(folder / RESTARTS)
        return [
            restart
            for restart in restarts
            if "step" in restart and all({"was", "is"} <= change.keys() for change in restart["differs"].values())
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def origin_facts(start: Facts, versions: Mapping[str, str]) -> Facts:
    """Return a start and its packages as one flat mapping."""
    return flat(start) | {f"package {name}": version for name, version in versions.items()}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Facts:
    """Flatten a nested mapping; join its keys with dots."""
    leaves: Facts = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def differences(old: Facts, new: Facts) -> dict[str, tuple[Any, Any]]:
    """Return the facts that differ between two flat mappings, as (old, new), without those in `IGNORED`."""
    pairs = {key: (old.get(key, "none"), new.get(key, "none")) for key in {**old, **new} if key not in IGNORED}
    fingerprints = pairs.get("data_fingerprint", ())
    if not all(str(fingerprint).startswith(FINGERPRINT) for fingerprint in fingerprints):
        del pairs["data_fingerprint"]  # an early run's fingerprint is that of its files, not of its images
    return {key: values for key, values in pairs.items() if values[0] != values[1]}


def difference_lines(changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Return a message for each difference."""
    return [OPAQUE.get(key) or escape_name(f"{key}: {new}, was {old}") for key, (old, new) in changed.items()]
