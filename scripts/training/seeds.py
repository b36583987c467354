"""The same training with several seeds: what was done is not done again, what was broken off goes on.

    python scripts/train.py fit --seeds 5 [any flag of scripts/train.py fit]

Each seed is a process of its own, as if started by hand: what one leaves in memory, in torch's state or on the GPU, and
its crash, are nothing to the next. What there is to know of a seed is in its run's folder and nowhere else.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from types import FrameType
from typing import Any

from rich import get_console
from rich.table import Table

from callbacks.run import torchrun
from callbacks.run.migration import migrate_config
from callbacks.run.origin import read_origin
from callbacks.run.run_folder import CONFIG, is_tested, order_of_start, read_results, wait_until_left
from core.names import escape_name
from core.plain_data import parse_yaml
from core.stopping import Stopped, heeded
from core.user_error import UserError
from datamodules.loading.loader import way_of_death
from scripts.command.configuration import Config
from scripts.command.data_flags import data_of_config
from scripts.command.process import PARENT

TRAIN = Path(__file__).parents[1] / "train.py"

# What of a configuration is the same in all runs of an experiment, or told apart by the seed.
ELSEWHERE = ("seed_everything", "experiment", "runs")

LEAVING_SECONDS = 30.0  # how long a process may take to leave a run that it was told to leave


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Args:
        experiment: The folder of its runs.
        config: The resolved configuration.
        flags: Those of `scripts/train.py fit` that it comes from.
    """

    experiment: Path
    config: Config
    flags: tuple[str, ...]


@dataclass(frozen=True)
class SeedRun:
    """What became of a seed.

    Args:
        seed: Which.
        folder: Its run's folder, if one was made.
        results: As in `results.json`; None if it has none.
        problem: Why not.
    """

    seed: int
    folder: Path | None
    results: dict[str, Any] | None
    problem: str | None = None


def number_of_seeds(text: str) -> int:
    """The number that --seeds gives."""
    if not text.isdecimal() or not 1 <= int(text) <= 2**32:
        raise UserError(f"--seeds is {text or 'not given'}; give a whole number from 1 to {2**32}.")
    return int(text)


def train_seeds_and_tell(args: Sequence[str], plan: Callable[[Sequence[str]], Plan]) -> int:
    """Train with several seeds, and print their figures with mean and standard deviation."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seeds", nargs="?", const="", default="")
    given, flags = parser.parse_known_args(args)
    number = number_of_seeds(given.seeds)
    for flag in ("--resume", "--ckpt_path", "--like"):
        if any(other.partition("=")[0] == flag for other in flags):
            raise UserError(
                f"--seeds and {flag} are given: --seeds begins a run for each seed and goes on with those of its own "
                f"that were broken off, {flag} is about one run; leave one of them out."
            )
    if torchrun.has_started_this() or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        raise UserError(
            "--seeds starts the processes of each seed itself; give it to one process and --trainer.devices to the "
            "Trainer, or start each seed with --seed_everything."
        )
    planned = plan(flags)
    if planned.config["ckpt_path"]:
        raise UserError(
            "--seeds begins a run for each seed, but the configuration has a ckpt_path, which is of one; leave it out."
        )
    first = planned.config["seed_everything"]
    try:
        runs = train_seeds(planned, range(first, first + number))
    except Stopped as stop:
        again = shlex.join(["scripts/train.py", "fit", *args])
        print(f"stopped by {stop.signal.name}; what is done stays done; go on with all seeds: {again}")
        raise
    print_summary(runs)
    return int(any(run.problem for run in runs))


def train_seeds(plan: Plan, seeds: Sequence[int]) -> list[SeedRun]:
    """Train and test with each seed, unless that was done with the very same configuration and data.

    A run with this configuration, these data and this seed that was broken off goes on from its last checkpoint. If a
    seed fails, the others go on.
    """
    if seeds[-1] >= 2**32:
        raise UserError(f"The last seed is {seeds[-1]}; give seeds from 0 to {2**32 - 1}.")
    if plan.config["trainer"].get("fast_dev_run"):
        raise UserError("trainer.fast_dev_run keeps nothing that seeds could be compared by; leave it out.")
    with _Child() as child:
        runs = [_train_seed(plan, seed, child) for seed in seeds]
        child.leave_if_told()
    return runs


def _train_seed(plan: Plan, seed: int, child: "_Child") -> SeedRun:
    name = f"{plan.experiment.name}, seed {seed}"
    run = find_run(plan, seed)
    if run and is_tested(results := read_results(run)):
        print(f"{name}: done in {run}", flush=True)
        return SeedRun(seed, run, results)
    if run:
        print(f"{name}: going on", flush=True)
        wait_until_left(run, LEAVING_SECONDS)
        flags = ["--resume", str(run)]
    else:
        print(name, flush=True)
        flags = [*plan.flags, "--seed_everything", str(seed)]
    status, said = child.run([sys.executable, str(TRAIN), "fit", *flags])
    begun, run = run is None, find_run(plan, seed)
    results = read_results(run) if run else {}
    if status == 0 and run:
        return SeedRun(seed, run, results)
    problem = said.removeprefix("error: ") or f"it ended with status {status}"
    if status < 0:
        again = (
            "go on with the same command, or begin anew with fewer --data.num_workers or a smaller --data.batch_size"
        )
        problem = f"it {way_of_death(status)}; {again}"
    if status == 2 and begun:
        raise UserError(problem)  # and so would each seed
    print(f"error: {name}: {problem}", file=sys.stderr)
    return SeedRun(seed, run, None, problem)


def find_run(plan: Plan, seed: int) -> Path | None:
    """The run with a configuration, a seed and the data as they are now: one that is done, else the newest."""
    wanted = {key: value for key, value in plan.config.items() if key not in ELSEWHERE}
    found = []
    for file in sorted(plan.experiment.glob(f"*/{CONFIG}")):
        text = file.read_text(errors="replace")
        if f"seed_everything: {seed}\n" in text and _what_counts(text) == wanted:
            found.append(file.parent)
    if not found:
        return None
    data = data_of_config(plan.config)
    data.prepare_data()
    fingerprint = escape_name(data.data_fingerprint)
    origins = {run: read_origin(run) for run in found}
    found = [run for run, origin in origins.items() if origin and origin["data_fingerprint"] == fingerprint]
    done = [run for run in found if is_tested(read_results(run))]
    return max(done or found, key=order_of_start, default=None)


def _what_counts(text: str) -> Config | None:
    try:
        config = parse_yaml(text)
    except ValueError:
        return None
    if not isinstance(config, dict):
        return None
    return {key: value for key, value in migrate_config(config).items() if key not in ELSEWHERE}


def print_summary(runs: Sequence[SeedRun]) -> None:
    """Print the test's figures of each seed, their mean and their standard deviation (of a sample, n - 1)."""
    figures = [{name: run.results["metrics"][name] for name in _tested(run)} if run.results else {} for run in runs]
    names = sorted({name for of_run in figures for name in of_run})
    table = Table("seed", *names, "run")
    for run, of_run in zip(runs, figures, strict=True):
        cells = [f"{of_run[name]:.4f}" if name in of_run else "" for name in names]
        table.add_row(str(run.seed), *cells, run.folder.name if run.folder and not run.problem else "failed")
    values = {name: [of_run[name] for of_run in figures if name in of_run] for name in names}
    if any(values.values()):
        count = max(map(len, values.values()))
        table.add_section()
        table.add_row("mean", *(spread(values[name]) for name in names), f"{count} seed{'s' if count > 1 else ''}")
    get_console().print(table)
    if folder := next((run.folder for run in runs if run.folder), None):
        print(f"runs  {folder.parent}")
    for run in runs:
        if run.problem:
            print(f"error: seed {run.seed}: {run.problem}", file=sys.stderr)
    codes = {run.seed: _code_of(run.folder) for run in runs if run.folder}
    if len(set(codes.values())) > 1:
        print("these runs are not of the same code: " + "; ".join(_by_code(codes)))


def spread(values: Sequence[float], digits: int = 4) -> str:
    """The mean, and the standard deviation of a sample (n - 1) where there are several values.

    Example:
        >>> spread([0.98, 0.99]), spread([0.98])
        ('0.9850 ± 0.0071', '0.9800')
    """
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def _tested(run: SeedRun) -> list[str]:
    return [name for name in (run.results or {}).get("metrics", {}) if name.startswith("test/")]


def _code_of(run: Path) -> str:
    origin = read_origin(run) or {}
    changed = " and changes " if origin.get("changes") else ""
    return f"{str(origin.get('git_commit'))[:12]}{changed}{str(origin.get('changes'))[:6] if changed else ''}"


def _by_code(codes: Mapping[int, str]) -> Iterator[str]:
    for code in dict.fromkeys(codes.values()):
        seeds = [str(seed) for seed, of_seed in codes.items() if of_seed == code]
        yield f"{code} with seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


class _Child:
    """Runs one process at a time, and tells it what this one is told.

    The process is in a group of its own, so that Ctrl-C in a terminal reaches it once, by way of this one; and it ends
    if this one is killed.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._told = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Child":
        self._before = {number: signal.signal(number, self._note) for number in heeded()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """The exit status, and the last line of what was said on stderr.

        All of it is passed on but a last line that tells why the process failed, which is the caller's to tell.
        """
        self.leave_if_told()
        said = held = ""
        environment = os.environ | {PARENT: str(os.getpid())}
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment, process_group=0
        ) as self._process:
            if self._told:  # before there was one to tell
                self._process.terminate()
            assert self._process.stderr is not None, "asked for"
            for line in self._process.stderr:
                said = line.strip() or said
                sys.stderr.write(held)
                held = line if line.startswith("error: ") else ""
                if not held:
                    sys.stderr.write(line)
                sys.stderr.flush()
            status = self._process.wait()
        if status <= 0 or self._told:  # then the caller tells something else
            sys.stderr.write(held)
        self._process = None
        self.leave_if_told()
        return status, said

    def leave_if_told(self) -> None:
        """Leave, if a signal has come."""
        if self._told:
            raise Stopped(self._told, in_order=True)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self._told = self._told == signal.SIGINT == number, number
        if self._process is None:
            return
        if again:
            self._process.kill()
        elif number == signal.SIGINT:
            # While it is still loading its libraries, SIGINT would end it with a traceback.
            self._process.terminate()
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), b"\nleaving after this batch; Ctrl-C again leaves at once\n")
        else:
            self._process.send_signal(number)
