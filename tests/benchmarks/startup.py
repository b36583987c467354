"""Start-up: how long each command takes to its first line, beside importing torch and Lightning.

python -m tests.benchmarks.startup
"""

import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from scripts.report.table import Table, show
from tests.discovery import ROOT

TORCH, LIGHTNING = "import torch", "import torch, lightning"

ROUNDS = 3  # each command is started in turn, so many times

# What each command's start may take of what it must at least import.
LIMITS = {
    **{f"{name}.py --help": (TORCH, 1.5) for name in ("predict", "compare", "convolution", "export", "visualize")},
    "train.py fit --help": (TORCH, 1.0),
    "train.py fit": (LIGHTNING, 1.2),
}


def seconds_to_first_line(command: list[str], folder: str) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=os.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "asked for"
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.kill()
    assert line, f"{command} has printed nothing"
    return seconds


def main() -> None:
    commands = {name: [sys.executable, "-c", f"{name}; print()"] for name in (TORCH, LIGHTNING)}
    for name in LIMITS:
        file, *flags = name.split()
        commands[name] = [sys.executable, str(ROOT / "scripts" / file), *flags]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for name, command in commands.items():
                seconds[name].append(seconds_to_first_line(command, folder))
    rows = []
    for name in commands:
        beside, most = LIMITS.get(name, (name, 1.0))
        ratio = median(seconds[name]) / median(seconds[beside])
        rows.append([name, f"{median(seconds[name]):.2f}", beside, f"{ratio:.2f}", f"{most:.1f}"])
    show(Table(["start", "seconds", "beside", "ratio", "at most"], rows))


if __name__ == "__main__":
    main()
