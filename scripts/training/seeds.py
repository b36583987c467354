"""One training with several seeds: a finished seed is kept, and an unfinished one goes on.

    python scripts/train.py fit --seeds 5 [any flag of scripts/train.py fit]

Each seed is a process of its own, so that no seed can affect the next. All state is in the folders of the runs.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from callbacks.run.migration import migrate_config
from callbacks.run.restarts import read_origin
from callbacks.run.run_folder import CONFIG, is_tested, order_of_start, read_results, wait_until_left
from core.names import escape_name
from core.plain_data import parse_yaml
from core.stopping import Stopped, heeded
from core.user_error import UserError
from datamodules.loading.loader import way_of_death
from scripts.command.boundary import CommandParser
from scripts.command.configuration import Config
from scripts.command.data_flags import data_of_config
from scripts.command.process import PARENT
from scripts.command.whole_number import whole_number

TRAIN = Path(__file__).parents[1] / "train.py"

# Keys of a configuration by which runs of one plan may differ.
ELSEWHERE = ("seed_everything", "experiment", "runs")

LEAVING_SECONDS = 30.0  # how long a stopped process may take to release its run


@dataclass(frozen=True)
class Plan:
    """The training that several seeds share."""

    experiment: Path  # the folder of its runs
    config: Config  # resolved
    flags: tuple[str, ...]  # of `scripts/train.py fit`


@dataclass(frozen=True)
class SeedRun:
    """The run of a seed."""

    seed: int
    folder: Path | None
    results: dict[str, Any] | None  # as in `results.json`
    problem: str | None = None  # why there are no results


def train_seeds_and_tell(args: Sequence[str], plan: Callable[[Sequence[str]], Plan]) -> int:
    """Train with several seeds, and print their metrics with mean and standard deviation."""
    parser = CommandParser(prog="scripts/train.py fit", add_help=False)
    parser.add_argument("--seeds", type=whole_number)
    options, flags = parser.parse_known_args(args)
    for flag in ("--resume", "--ckpt_path", "--like"):
        if any(other.partition("=")[0] == flag for other in flags):
            raise UserError(
                f"--seeds and {flag} are given: --seeds begins a run for each seed and goes on with those of its own "
                f"that were broken off, {flag} is about one run; leave one of them out."
            )
    if "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
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
        runs = train_seeds(planned, range(first, first + options.seeds))
    except Stopped as stop:
        again = shlex.join(["scripts/train.py", "fit", *args])
        print(f"stopped by {stop.signal.name}; what is done stays done; go on with all seeds: {again}")
        raise
    print_summary(runs)
    return int(any(run.problem for run in runs))


def train_seeds(plan: Plan, seeds: Sequence[int]) -> list[SeedRun]:
    """Train and test each seed that has no finished run with the same configuration and data.

    An unfinished run goes on from its last checkpoint. If one seed fails, the others are trained all the same.
    """
    if seeds[-1] >= 2**32:
        raise UserError(f"The last seed is {seeds[-1]}; give seeds from 0 to {2**32 - 1}.")
    if plan.config["trainer"].get("fast_dev_run"):
        raise UserError("trainer.fast_dev_run keeps nothing that seeds could be compared by; leave it out.")
    with _Child() as child:
        runs = [_train_seed(plan, seed, child) for seed in seeds]
        child.leave_if_signalled()
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
    """Find the run of a seed with the same configuration and data: a finished one, else the newest."""
    wanted = {key: value for key, value in plan.config.items() if key not in ELSEWHERE}
    candidates = []
    for file in sorted(plan.experiment.glob(f"*/{CONFIG}")):
        text = file.read_text(errors="replace")
        if f"seed_everything: {seed}\n" in text and _comparable(text) == wanted:
            candidates.append(file.parent)
    if not candidates:
        return None
    data = data_of_config(plan.config)
    data.prepare_data()
    fingerprint = escape_name(data.data_fingerprint)
    origins = {run: read_origin(run) for run in candidates}
    runs = [run for run, origin in origins.items() if origin and origin["data_fingerprint"] == fingerprint]
    finished = [run for run in runs if is_tested(read_results(run))]
    return max(finished or runs, key=order_of_start, default=None)


def _comparable(text: str) -> Config | None:
    try:
        config = parse_yaml(text)
    except ValueError:
        return None
    if not isinstance(config, dict):
        return None
    return {key: value for key, value in ({"test": True} | migrate_config(config)).items() if key not in ELSEWHERE}


def print_summary(runs: Sequence[SeedRun]) -> None:
    """Print the test metrics of each seed, and their means with the rule of their uncertainty."""
    from scripts.report.table import Table, show
    from scripts.uncertainty.mean import caption, mean_over_seeds

    metrics = [_test_metrics(run) for run in runs]
    names = sorted(set().union(*metrics))
    rows = []
    for run, values_of_run in zip(runs, metrics, strict=True):
        cells = [f"{values_of_run[name]:.4f}" if name in values_of_run else "" for name in names]
        # Without the settings in its name, which all have.
        name = re.sub(r"_[a-z]\w*=.*", "", run.folder.name) if run.folder and not run.problem else "failed"
        rows.append([str(run.seed), *cells, name])
    means = [mean_over_seeds([of_run[name] for of_run in metrics if name in of_run]) for name in names]
    rows += [["mean", *(mean.shown() for mean in means), ""]] if means else []
    show(Table(["seed", *names, "run"], rows, frozenset({len(runs)}), caption(means)))
    if folder := next((run.folder for run in runs if run.folder), None):
        print(f"runs  {folder.parent}")
    for run in runs:
        if run.problem:
            print(f"error: seed {run.seed}: {run.problem}", file=sys.stderr)
    codes = {run.seed: _code_of(run.folder) for run in runs if run.folder}
    if len(set(codes.values())) > 1:
        print("these runs are not of the same code: " + "; ".join(_by_code(codes)))


def _test_metrics(run: SeedRun) -> dict[str, float]:
    metrics = (run.results or {}).get("metrics", {})
    return {name: value for name, value in metrics.items() if name.startswith("test/")}


def _code_of(run: Path) -> str:
    origin = read_origin(run) or {}
    changed = " and changes " if origin.get("changes") else ""
    return f"{str(origin.get('git_commit'))[:12]}{changed}{str(origin.get('changes'))[:6] if changed else ''}"


def _by_code(codes: Mapping[int, str]) -> Iterator[str]:
    for code in dict.fromkeys(codes.values()):
        seeds = [str(seed) for seed, of_seed in codes.items() if of_seed == code]
        yield f"{code} with seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


class _Child:
    """Runs one child process at a time, and passes signals on to it.

    The child has a process group of its own: Ctrl-C in a terminal reaches this process alone. It ends if this process
    is killed.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._signal = 0  # the last that has come
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Child":
        self._before = {number: signal.signal(number, self._on_signal) for number in heeded()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a command; return its exit status and the last line of its stderr.

        The rest of stderr is passed on as it comes, but not a last line with the error, which the caller prints.
        """
        self.leave_if_signalled()
        said = held = ""
        # Without breakpoints: a group in the background that reads from the terminal would stand still.
        environment = os.environ | {PARENT: str(os.getpid()), "PYTHONBREAKPOINT": "0"}
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment, process_group=0
        ) as self._process:
            if self._signal:  # it came before the child had started
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
        if status <= 0 or self._signal:  # then the caller prints another reason
            sys.stderr.write(held)
        self._process = None
        self.leave_if_signalled()
        return status, said

    def leave_if_signalled(self) -> None:
        """Raise `Stopped` if a signal has come."""
        if self._signal:
            raise Stopped(self._signal, in_order=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self._signal = self._signal == signal.SIGINT == number, number
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
