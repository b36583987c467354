"""Record the origin of a run besides its configuration: code, packages, machine, data and command line."""

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

# Files in a run's folder that describe its origin.
ORIGIN, CONSTRAINTS, CHANGES = "origin.json", "constraints.txt", "changes.patch"

PROJECT = Path(__file__).resolve().parents[2]

# Untracked files that are part of the code, as git patterns.
SOURCES = (*(f"{room}/*.py" for room in ("core", "models", "datamodules", "callbacks", "scripts")), "configs/*.yaml")

# Arguments of a diff that does not depend on the user's git configuration.
PATCH = (
    *("diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/", "HEAD", "--", "."),
)

Facts = dict[str, Any]


class Code(NamedTuple):
    """The commit of the running code, and the uncommitted changes to it."""

    commit: str | None  # 40 hexadecimal digits; None outside a repository
    changes: bytes | None = None  # a patch for `git apply`; None if the code is that of the commit

    @property
    def name(self) -> str | None:
        """The commit, with `-dirty` if there are uncommitted changes."""
        return f"{self.commit}-dirty" if self.changes else self.commit


@cache
def code() -> Code:
    """Ask git for the commit and changes of the running code, once per process.

    Untracked sources are added to a temporary index, so that the patch has them and the repository stays unchanged.
    """
    with suppress(OSError, subprocess.SubprocessError), TemporaryDirectory() as folder:
        output = _git({}, "rev-parse", "HEAD", "--git-path", "index", "--git-path", "objects")
        commit, index, objects = output.decode(errors="surrogateescape").splitlines()
        temporary = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(PROJECT / objects),
        }
        shutil.copyfile(PROJECT / index, temporary["GIT_INDEX_FILE"])
        untracked = _git(temporary, "ls-files", "--others", "--exclude-standard", "-z", *SOURCES)
        if untracked:
            from_stdin = "--pathspec-from-file=-", "--pathspec-file-nul"
            _git(temporary, "--literal-pathspecs", "add", "--intent-to-add", *from_stdin, stdin=untracked)
        return Code(commit, _git(temporary, *PATCH) or None)
    return Code(None)  # no repository, or one before its first commit


def _git(environment: Mapping[str, str], *args: str, stdin: bytes = b"") -> bytes:
    # Without safe.directory, git refuses a checkout that belongs to another user.
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={PROJECT}", *args]
    env = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=PROJECT, env=env, input=stdin, capture_output=True, check=True, timeout=60
    ).stdout


@cache
def packages() -> dict[str, str]:
    """Return the version of every installed package, by its name in lower case."""
    installed = reversed(list(distributions()))  # of two installations, Python imports the first
    return {name.lower(): package.version for package in installed if (name := package.metadata["Name"])}


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or that of the CPU with the number of cores available to this process."""
    on_gpu = device.type == "cuda"
    return str(torch.cuda.get_device_name(device)) if on_gpu else f"{processor()}, {available_cores()} cores"


def processor() -> str:
    """Return the name of the CPU."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        if name := next((line.partition(": ")[2] for line in lines if line.startswith("model name")), ""):
            return name
    return platform.processor() or platform.machine()


def machine(device: torch.device) -> Facts:
    """Return the hardware and drivers that may affect results bit for bit."""
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
    """Return the facts of a start, in plain types."""
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


def write_origin(folder: Path, start: Facts) -> None:
    """Write the facts of a run's first start, its uncommitted changes and its packages."""
    if changes := code().changes:
        replace_file(folder / CHANGES, changes)
    lines = sorted(f"{name}=={version}\n" for name, version in packages().items())
    replace_file(folder / CONSTRAINTS, "".join(lines))
    replace_file(folder / ORIGIN, json.dumps(start, indent=1) + "\n")
