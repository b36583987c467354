"""One training with several seeds, in several folds, or both: a finished run is kept, and an unfinished one goes on.

    python scripts/train.py fit --seeds 3 --folds 5 [any flag of scripts/train.py fit]

Each run is a process of its own, so that no run can affect the next. All state is in the folders of the runs.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from callbacks.run.restarts import read_origin
from callbacks.run.run_folder import CONFIG, is_tested, order_of_start, read_results, wait_until_left
from core.names import escape_name
from core.stopping import Stopped, heeded
from core.user_error import UserError
from datamodules.loading.loader import way_of_death
from scripts.command.boundary import CommandParser, whole_number
from scripts.command.configuration import ELSEWHERE, Config, read_config
from scripts.command.data_flags import data_of_config
from scripts.command.process import PARENT

TRAIN = Path(__file__).parents[1] / "train.py"

LEAVING_SECONDS = 30.0  # how long a stopped process may take to release its run


@dataclass(frozen=True)
class Plan:
    """The training that several seeds share."""

    experiment: Path  # the folder of its runs
    config: Config  # resolved
    flags: tuple[str, ...]  # of `scripts/train.py fit`
    fold: int | None = None  # the test split, of several folds

    def of_fold(self, fold: int) -> "Plan":
        """The same of another fold; the last flag is that of the fold."""
        data = self.config["data"]
        config = self.config | {"data": data | {"init_args": data["init_args"] | {"fold": fold}}}
        return replace(self, config=config, flags=(*self.flags[:-1], f"--data.fold={fold}"), fold=fold)


@dataclass(frozen=True)
class PlannedRun:
    """The run of a seed, or of a seed and a fold."""

    seed: int
    folder: Path | None
    results: dict[str, Any] | None  # as in `results.json`
    problem: str | None = None  # why there are no results
    fold: int | None = None

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"seed {self.seed}" if self.fold is None else f"fold {self.fold}, seed {self.seed}"


def train_several_and_tell(args: Sequence[str], plan: Callable[[Sequence[str]], Plan]) -> int:
    """Train with several seeds or in several folds, and print the metrics of each run, with their mean."""
    parser = CommandParser(prog="scripts/train.py fit", add_help=False)
    parser.add_argument("--seeds", type=whole_number, default=1)
    parser.add_argument("--folds", type=partial(whole_number, least=2))
    parser.add_argument("--fold", type=partial(whole_number, least=0))
    options, flags = parser.parse_known_args(args)
    asked = "--folds" if options.folds else "--seeds" if options.fold is None else "--fold"
    for flag in ("--resume", "--ckpt_path", "--like", *(["--data.fold"] if asked != "--seeds" else [])):
        if any(other.partition("=")[0] == flag for other in flags):
            raise UserError(
                f"{asked} and {flag} are given: {asked} begins runs and goes on with those of its own that were broken "
                f"off, {flag} is about one run; leave one of them out."
            )
    if "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        raise UserError(
            f"{asked} starts the processes of each run itself; give it to one process and --trainer.devices to the "
            "Trainer, or start each run with --seed_everything, --data.folds and --data.fold."
        )
    folds = [] if options.folds is None else [f"--data.folds={options.folds}"]
    chosen = range(options.folds or 0) if options.fold is None else [options.fold]
    planned = plan([*flags, *folds, *(f"--data.fold={fold}" for fold in chosen[:1])])
    plans = [planned.of_fold(fold) for fold in chosen] or [planned]
    if plans[0].config["ckpt_path"]:
        raise UserError(
            f"{asked} begins several runs, but the configuration has a ckpt_path, which is of one; leave it out."
        )
    first = plans[0].config["seed_everything"]
    try:
        runs = train_several(plans, range(first, first + options.seeds))
    except Stopped as stop:
        again = shlex.join(["scripts/train.py", "fit", *args])
        print(f"stopped by {stop.signal.name}; what is done stays done; go on with all runs: {again}")
        raise
    print_summary(runs, options.folds)
    return int(any(run.problem for run in runs))


def train_several(plans: Sequence[Plan], seeds: Sequence[int]) -> list[PlannedRun]:
    """Train and test each plan with each seed, unless there is a finished run with the same configuration and data.

    An unfinished run goes on from its last checkpoint. If one fails, the others are trained all the same. The first
    seed of all plans comes first.
    """
    if seeds[-1] >= 2**32:
        raise UserError(f"The last seed is {seeds[-1]}; give seeds from 0 to {2**32 - 1}.")
    if plans[0].config["trainer"].get("fast_dev_run"):
        raise UserError("trainer.fast_dev_run keeps nothing that runs could be compared by; leave it out.")
    with _Child() as child:
        runs = [_train(plan, seed, child) for seed in seeds for plan in plans]
        child.leave_if_signalled()
    return runs


def _train(plan: Plan, seed: int, child: "_Child") -> PlannedRun:
    planned = PlannedRun(seed, find_run(plan, seed), None, fold=plan.fold)
    name, run = f"{plan.experiment.name}, {planned.name}", planned.folder
    if run and is_tested(results := read_results(run)):
        print(f"{name}: done in {run}", flush=True)
        return replace(planned, results=results)
    if run:
        print(f"{name}: going on", flush=True)
        wait_until_left(run, LEAVING_SECONDS)
        flags = ["--resume", str(run)]
    else:
        print(name, flush=True)
        flags = [*plan.flags, "--seed_everything", str(seed)]
    status, said = child.run([sys.executable, str(TRAIN), "fit", *flags])
    begun, run = run is None, find_run(plan, seed)
    planned = replace(planned, folder=run)
    if status == 0 and run:
        return replace(planned, results=read_results(run))
    problem = said.removeprefix("error: ") or f"it ended with status {status}"
    if status < 0:
        again = (
            "go on with the same command, or begin anew with fewer --data.num_workers or a smaller --data.batch_size"
        )
        problem = f"it {way_of_death(status)}; {again}"
    if status == 2 and begun:
        raise UserError(problem)  # and so would each run
    print(f"error: {name}: {problem}", file=sys.stderr)
    return replace(planned, problem=problem)


def find_run(plan: Plan, seed: int) -> Path | None:
    """Find the run of a seed with the same configuration and data: a finished one, else the newest."""
    candidates = []
    for file in sorted(plan.experiment.glob(f"*/{CONFIG}")):
        if f"seed_everything: {seed}\n" in file.read_text(errors="replace"):
            with suppress(UserError):  # of a file that is damaged
                config = {"test": True} | read_config(file) | {key: plan.config[key] for key in ELSEWHERE}
                candidates += [file.parent] if config == plan.config else []
    if not candidates:
        return None
    data = data_of_config(plan.config)
    data.prepare_data()
    fingerprint = escape_name(data.data_fingerprint)
    runs = [run for run in candidates if (read_origin(run) or {}).get("data_fingerprint") == fingerprint]
    finished = [run for run in runs if is_tested(read_results(run))]
    return max(finished or runs, key=order_of_start, default=None)


def print_summary(runs: Sequence[PlannedRun], folds: int | None = None) -> None:
    """Print the test metrics of each run, and their means with the rule of their uncertainty."""
    from scripts.report.table import Table, show
    from scripts.uncertainty.mean import caption, mean_of_runs

    of_runs = [(run, (run.results or {}).get("metrics", {})) for run in runs]
    metrics = [{name: each[name] for name in each if name.startswith("test/")} for _, each in of_runs]
    names = sorted(set().union(*metrics))
    heading = ["seed"] if runs[0].fold is None else ["seed", "fold"]
    rows = []
    for run, values_of_run in zip(runs, metrics, strict=True):
        cells = [f"{values_of_run[name]:.4f}" if name in values_of_run else "" for name in names]
        # Without the settings in its name, which all have.
        name = re.sub(r"_[a-z]\w*=.*", "", run.folder.name) if run.folder and not run.problem else "failed"
        rows.append([*(str(getattr(run, key)) for key in heading), *cells, name])
    means = [mean_of_runs([(run.fold, each[name]) for run, each in of_runs if name in each], folds) for name in names]
    rows += [["mean", *[""] * (len(heading) - 1), *(mean.shown() for mean in means), ""]] if means else []
    show(Table([*heading, *names, "run"], rows, frozenset({len(runs)}), caption(means)))
    if folder := next((run.folder for run in runs if run.folder), None):
        print(f"runs  {folder.parent}")
    for run in runs:
        if run.problem:
            print(f"error: {run.name}: {run.problem}", file=sys.stderr)
    codes = {run.name: _code_of(run.folder) for run in runs if run.folder}
    if len(set(codes.values())) > 1:
        print("these runs are not of the same code: " + "; ".join(f"{run}, {code}" for run, code in codes.items()))


def _code_of(run: Path) -> str:
    origin = read_origin(run) or {}
    changed = " and changes " if origin.get("changes") else ""
    return f"{str(origin.get('git_commit'))[:12]}{changed}{str(origin.get('changes'))[:6] if changed else ''}"


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
