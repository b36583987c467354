"""What a run comes from besides its configuration: code, packages, machine, data and command line."""

import hashlib
import json
import os
import platform
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

# New files of the project that are part of the code that ran, as patterns of git.
SOURCES = (*(f"{room}/*.py" for room in ("core", "models", "datamodules", "callbacks", "scripts")), "configs/*.yaml")

# A patch that does not depend on the user's settings of git.
PATCH = (
    *("diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "HEAD", "--", "."),
)

Facts = dict[str, Any]


class Code(NamedTuple):
    """The sources of this process, as git knows them."""

    commit: str | None  # 40 hexadecimal digits; None outside a repository
    changes: bytes | None = None  # a patch that `git apply` turns the commit into the sources with, if they differ

    @property
    def name(self) -> str | None:
        """The commit, with `-dirty` if the sources differ from it."""
        return f"{self.commit}-dirty" if self.changes else self.commit


@cache
def code() -> Code:
    """Ask git for the code of this process, once.

    New sources get into the patch by a temporary index, to which they are added; the repository stays as it is.
    """
    with suppress(OSError, subprocess.SubprocessError), TemporaryDirectory() as folder:
        found = _git({}, "rev-parse", "HEAD", "--git-path", "index", "--git-path", "objects")
        commit, index, objects = found.decode(errors="surrogateescape").splitlines()
        temporary = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(PROJECT / objects),
        }
        shutil.copyfile(PROJECT / index, temporary["GIT_INDEX_FILE"])
        if new := _git(temporary, "ls-files", "--others", "--exclude-standard", "-z", *SOURCES):
            names = "--pathspec-from-file=-", "--pathspec-file-nul"
            _git(temporary, "--literal-pathspecs", "add", "--intent-to-add", *names, given=new)
        return Code(commit, _git(temporary, *PATCH) or None)
    return Code(None)  # no repository, or one before its first commit


def _git(environment: Mapping[str, str], *args: str, given: bytes = b"") -> bytes:
    # Git distrusts another user's checkout, whose code runs here all the same.
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={PROJECT}", *args]
    env = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=PROJECT, env=env, input=given, capture_output=True, check=True, timeout=60
    ).stdout


@cache
def packages() -> dict[str, str]:
    """The version of every installed package, by its name in lower case."""
    installed = reversed(list(distributions()))  # of two installations the first is imported
    return {name.lower(): each.version for each in installed if (name := each.metadata["Name"])}


def hardware(device: torch.device) -> str:
    """The name of the GPU, or of the processor and how many of its cores this process may use."""
    on_gpu = device.type == "cuda"
    return str(torch.cuda.get_device_name(device)) if on_gpu else f"{processor()}, {available_cores()} cores"


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
        "changes": hashlib.sha256(changes).hexdigest() if (changes := code().changes) else None,
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
    if changes := code().changes:
        replace_file(folder / CHANGES, changes)
    lines = sorted(f"{name}=={version}\n" for name, version in packages().items())
    replace_file(folder / CONSTRAINTS, "".join(lines))
    replace_file(folder / ORIGIN, json.dumps(start, indent=1) + "\n")
