"""What a run comes from besides its configuration: code, packages, machine, data and command line."""

import hashlib
import json
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.durable_file import replace_file
from core.names import escape_name
from core.plain_data import read_json
from datamodules.loading.cores import available_cores
from datamodules.packing.pack import FINGERPRINT

# The files of a run's folder that say where it comes from.
ORIGIN, RESTARTS, CONSTRAINTS, CHANGES = "origin.json", "restarts.json", "constraints.txt", "changes.patch"

# What is kept of a start and makes no difference to what is computed, or is configured.
PASSING = ("started", "command", "directory", "seed", "repeats")

PROJECT = Path(__file__).resolve().parents[2]

# Folders of the project whose new files are part of the code that ran.
SOURCES = ("core", "models", "datamodules", "callbacks", "scripts", "configs")

# The largest new file and the most new files that are kept whole, and the most that are named.
SOURCE_BYTES, SOURCE_FILES, NAMED = 100_000, 20, 100

MISSING = "none"  # what stands for a value that one of two records lacks

Facts = dict[str, Any]


class Code(NamedTuple):
    """The sources of this process, as git knows them.

    Args:
        commit: 40 hexadecimal digits, or None outside a repository.
        is_changed: Whether a file that git knows is not as in the commit.
        changes: What `git apply` makes the sources of the commit, without the files in `untracked`; None if nothing.
        untracked: New files and folders that are in neither, relative to the repository.
    """

    commit: str | None
    is_changed: bool = False
    changes: bytes | None = None
    untracked: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        """The commit, with `-dirty` if a file that git knows was changed since."""
        return f"{self.commit}-dirty" if self.commit and self.is_changed else self.commit


@cache
def code() -> Code:
    """Ask git for the code that this process has read, once."""
    status = _git("status", "--porcelain=v2", "--branch", "--no-renames", "-z", "--", ".")
    if status is None:
        return Code(None)
    entries = status.decode(errors="surrogateescape").split("\0")
    commit = next((entry.split()[-1] for entry in entries if entry.startswith("# branch.oid")), "")
    if not re.fullmatch("[0-9a-f]{40,64}", commit):
        return Code(None)  # a repository before its first commit
    is_changed = any(entry[:2] in ("1 ", "u ") for entry in entries)
    untracked = [entry[2:] for entry in entries if entry.startswith("? ")]
    top = PROJECT
    if untracked:
        top = Path((_git("rev-parse", "--show-toplevel") or b"").decode(errors="surrogateescape").rstrip("\n"))
    kept, named = _sort_out(top, untracked)
    form = ["--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"]
    form += ["--src-prefix=a/", "--dst-prefix=b/"]
    parts = [_git("diff", *form, "HEAD", "--", ".")] if is_changed else []
    # Given a new file, git ends with status 1, as diff does.
    parts += [_git("diff", *form, "--no-index", "--", "/dev/null", name, folder=top) for name in kept]
    return Code(commit, is_changed, b"".join(part for part in parts if part) or None, tuple(map(escape_name, named)))


def _sort_out(top: Path, untracked: Sequence[str]) -> tuple[list[str], list[str]]:
    """The new files that are sources, and the other files and folders."""
    found: list[str] = []
    for name in untracked:
        path = top / name
        ours = path.is_relative_to(PROJECT) and path.relative_to(PROJECT).parts[0] in SOURCES
        files = sorted(path.rglob("*")) if ours and path.is_dir() else []
        found += [str(file.relative_to(top)) for file in files if file.is_file()] or [name]

    def is_source(path: Path) -> bool:
        ours = path.suffix in (".py", ".yaml") and path.relative_to(PROJECT).parts[0] in SOURCES
        return ours and path.is_file() and path.stat().st_size <= SOURCE_BYTES

    kept = [name for name in found if is_source(top / name)][:SOURCE_FILES]
    return kept, [name for name in found if name not in kept and "__pycache__" not in name][:NAMED]


def _git(*args: str, folder: Path | None = None) -> bytes | None:
    # Git distrusts another user's checkout, whose code runs here all the same.
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={PROJECT}", *args]
    try:
        done = subprocess.run(command, cwd=folder or PROJECT, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode in (0, 1) else None


@cache
def packages() -> dict[str, str]:
    """The version of every installed package by its name in lower case; of one that is there twice, the first found."""
    found: dict[str, str] = {}
    for distribution in distributions():
        # As text: a parser of e-mail, which importlib.metadata takes, needs ten times as long.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        name, version = (re.search(rf"^{key}: *(\S+)", text, re.MULTILINE) for key in ("Name", "Version"))
        if name and version:
            found.setdefault(name[1].lower(), version[1])
    return dict(sorted(found.items()))


def hardware(device: torch.device) -> str:
    """The name of the GPU, or of the processor and how many of its cores this process may use."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    cores = available_cores()
    return f"{processor()}, {cores} core{'s' if cores > 1 else ''}"


def processor() -> str:
    """The name of the processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        if name := next((line.partition(": ")[2] for line in lines if line.startswith("model name")), ""):
            return name
    return platform.processor() or platform.machine()


def machine(device: torch.device) -> Facts:
    """What of the hardware and its drivers may make a difference to a bit."""
    facts: Facts = {
        "device": device.type,
        "cpu": processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        with suppress(OSError):
            facts["driver"] = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    return facts


def describe_start(command: Sequence[str], device: torch.device, processes: int, seed: int | None, data: str) -> Facts:
    """What a run is started with, in plain types."""
    return {
        "started": f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
        "command": escape_name(shlex.join(command)),
        "directory": escape_name(str(Path.cwd())),
        "seed": seed,
        "data_fingerprint": escape_name(data),
        "git_commit": code().commit,
        "changes": hashlib.sha256(code().changes or b"").hexdigest() if code().changes else None,
        "untracked": list(code().untracked),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "os": platform.platform(),
        "hardware": machine(device),
        "processes": processes,
        "torch": {
            "version": str(torch.__version__),
            "commit": torch.version.git_version,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "build": [line.strip(" -") for line in torch.__config__.show().splitlines()],
        },
    }


def keep_origin(folder: Path, start: Facts) -> None:
    """Write what a run is started with."""
    if code().changes:
        replace_file(folder / CHANGES, code().changes or b"")
    lines = sorted(f"{name}=={version}\n" for name, version in packages().items())
    replace_file(folder / CONSTRAINTS, "".join(lines))
    replace_file(folder / ORIGIN, json.dumps(start, indent=1) + "\n")


def note_restart(folder: Path, start: Facts, step: int, configured: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Add to a run that goes on in what it differs from its origin, which stays as it is; nothing if in nothing."""
    origin = read_origin(folder)
    if origin is None:
        return []
    now = origin_facts(start, packages())
    found = differences(origin, now) | {f"config {key}": values for key, values in configured.items()}
    if not found:
        return []
    restarts = read_restarts(folder)
    number = len(restarts) + 1
    entry: Facts = {key: start[key] for key in PASSING if key in start}
    entry |= {"step": step, "differs": {key: {"was": was, "is": is_} for key, (was, is_) in found.items()}}
    if "changes" in found and code().changes:
        entry["patch"] = f"changes_{number}.patch"
        replace_file(folder / entry["patch"], code().changes or b"")
    replace_file(folder / RESTARTS, json.dumps([*restarts, entry], indent=1) + "\n")
    return sentences(found)


def read_origin(folder: Path) -> Facts | None:
    """What a run was started with, flat and with its packages; None if it has kept none."""
    try:
        start = read_json(folder / ORIGIN)
        lines = (folder / CONSTRAINTS).read_text().splitlines()
        return origin_facts(start, dict(line.split("==", 1) for line in lines))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def repeated_run(folder: Path) -> Path | None:
    """The folder of the run that a run does again, if it does and that is still there."""
    original = (read_origin(folder) or {}).get("repeats")
    return Path(original) if isinstance(original, str) and Path(original).is_dir() else None


def read_restarts(folder: Path) -> list[Facts]:
    """The later starts of a run that differed from the first."""
    try:
        restarts = read_json(folder / RESTARTS)
        return [each for each in restarts if "step" in each and all(map(_is_change, each["differs"].values()))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _is_change(value: Any) -> bool:
    return bool({"was", "is"} <= value.keys())


def origin_facts(start: Facts, versions: Mapping[str, str]) -> Facts:
    """A start and its packages as one mapping without mappings in it."""
    return flat(start) | {f"package {name}": version for name, version in versions.items()}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Facts:
    """A mapping without mappings in it.

    Example:
        >>> flat({"data": {"root": "data", "classes": None}})
        {'data.root': 'data', 'data.classes': None}
    """
    leaves: Facts = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def differences(one: Facts, other: Facts) -> dict[str, tuple[Any, Any]]:
    """What differs between two flat mappings, of what may make a difference: the one's value and the other's.

    Example:
        >>> differences({"os": "Linux", "started": 1}, {"os": "Darwin", "started": 2})
        {'os': ('Linux', 'Darwin')}
    """
    pairs = {key: (one.get(key, MISSING), other.get(key, MISSING)) for key in {**one, **other} if key not in PASSING}
    older = pairs.get("data_fingerprint", ("", ""))
    if not all(str(each).startswith(FINGERPRINT) for each in older):
        pairs.pop("data_fingerprint", None)
    return {key: values for key, values in pairs.items() if values[0] != values[1]}


def sentences(found: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Each difference as a line.

    Example:
        >>> sentences({"package torch": ("2.14.0", "2.15.0"), "changes": (None, "5f0c")})
        ['package torch: 2.15.0, was 2.14.0', 'changes since the commit: some']
    """
    lines = []
    for key, (was, is_) in found.items():
        if key == "changes":
            lines.append("changes since the commit: " + ("others" if was and is_ else "some" if is_ else "none"))
        elif key == "data_fingerprint":
            lines.append("data: other images, file names or labels than before")
        elif key == "torch.build":
            lines.append("torch: built with other options")
        else:
            lines.append(escape_name(f"{key}: {_shown(is_)}, was {_shown(was)}"))
    return lines


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or MISSING if isinstance(value, list) else str(value)
