"""What a run comes from besides its configuration: code, packages, machine, data and command line."""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from core.durable_file import replace_file
from core.names import escape_name
from datamodules.loading.loader import available_cores

# The files of a run's folder that say where it comes from.
ORIGIN, CONSTRAINTS, CHANGES = "origin.json", "constraints.txt", "changes.patch"

PROJECT = Path(__file__).resolve().parents[2]

# New files in these folders of the project, with these endings, are part of the code that ran.
SOURCES, ENDINGS = ("core", "models", "datamodules", "callbacks", "scripts", "configs"), (".py", ".yaml")

# The largest new file and the most new files that a patch holds, and the most other files that are named.
SOURCE_BYTES, SOURCE_FILES, NAMED = 100_000, 20, 100

# A patch that does not depend on the user's settings of git.
PATCH = (
    *("diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "HEAD", "--", "."),
)

Facts = dict[str, Any]


class Code(NamedTuple):
    """The sources of this process, as git knows them."""

    commit: str | None  # 40 hexadecimal digits; None outside a repository
    is_changed: bool = False  # whether a file that git tracks differs from the commit
    changes: bytes | None = None  # a patch that `git apply` turns the commit into the sources with, if they differ
    untracked: tuple[str, ...] = ()  # new files and folders that are neither in the commit nor in the patch

    @property
    def name(self) -> str | None:
        """The commit, with `-dirty` if a file that git tracks differs from it."""
        return f"{self.commit}-dirty" if self.commit and self.is_changed else self.commit


@cache
def code() -> Code:
    """Ask git for the code of this process, once.

    New sources get into the patch by a temporary index, to which they are added; the repository stays as it is.
    """
    found = _git({}, "rev-parse", "HEAD", "--git-path", "index", "--git-path", "objects")
    if found is None:
        return Code(None)  # no repository, or one before its first commit
    commit, index, objects = found.decode(errors="surrogateescape").splitlines()
    with TemporaryDirectory() as folder:
        copy = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(PROJECT / objects),
        }
        with suppress(OSError):
            shutil.copyfile(PROJECT / index, copy["GIT_INDEX_FILE"])
        is_changed = bool(_git(copy, "diff", "--name-only", "HEAD", "--", "."))
        new = _untracked(copy, *(f"{source}/*{ending}" for source in SOURCES for ending in ENDINGS))
        small = [name for name in new if (file := PROJECT / name).is_file() and file.stat().st_size <= SOURCE_BYTES]
        if small:
            _git(copy, "add", "--intent-to-add", "--", *small[:SOURCE_FILES])
        changes = _git(copy, *PATCH)
        others = [name for name in _untracked(copy, "--directory", ".") if "__pycache__" not in name]
    return Code(commit, is_changed, changes or None, tuple(map(escape_name, others[:NAMED])))


def _untracked(environment: Mapping[str, str], *which: str) -> list[str]:
    names = _git(environment, "ls-files", "--others", "--exclude-standard", "-z", *which) or b""
    return names.decode(errors="surrogateescape").split("\0")[:-1]


def _git(environment: Mapping[str, str], *args: str) -> bytes | None:
    # Git distrusts another user's checkout, whose code runs here all the same.
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={PROJECT}", *args]
    env = {**os.environ, **environment}
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, check=True, timeout=60)
        return done.stdout
    return None


@cache
def packages() -> dict[str, str]:
    """The version of every installed package, by its name in lower case."""
    versions: dict[str, str] = {}
    for distribution in distributions():
        # As text: a parser of e-mail, which importlib.metadata takes, needs ten times as long.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        name, version = (re.search(rf"^{key}: *(\S+)", text, re.MULTILINE) for key in ("Name", "Version"))
        if name and version:
            versions.setdefault(name[1].lower(), version[1])  # of two installations the first is imported
    return dict(sorted(versions.items()))


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
    """The hardware and drivers that results may depend on, down to their bits."""
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
    """The facts of a start, in plain types."""
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
    """Write the facts of a run's first start."""
    if code().changes:
        replace_file(folder / CHANGES, code().changes or b"")
    lines = sorted(f"{name}=={version}\n" for name, version in packages().items())
    replace_file(folder / CONSTRAINTS, "".join(lines))
    replace_file(folder / ORIGIN, json.dumps(start, indent=1) + "\n")
