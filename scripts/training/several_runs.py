"""Train one configuration with several seeds or folds; finished runs are kept, and unfinished ones are resumed.

    python scripts/train.py fit --seeds 3 --folds 5 [any flag of scripts/train.py fit]

Each run is a separate process, so that no run can affect the next. All state is in the folders of the runs.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from callbacks.run.restarts import read_origin
from callbacks.run.run_folder import CONFIG, is_tested, order_of_start, read_results
from core.names import escape_name
from core.stopping import Stopped
from core.user_error import UserError
from datamodules.loading.workers import way_of_death
from scripts.command.boundary import CommandParser, whole_number
from scripts.command.configuration import ELSEWHERE, Config, read_config
from scripts.command.data_flags import data_of_config
from scripts.command.process import PARENT
from scripts.training.train_cli import TrainCLI

TRAIN = Path(__file__).parents[1] / "train.py"


class ConfigReader(TrainCLI):
    """Reads the configuration of `fit`, and builds and runs nothing."""

    def before_instantiate_classes(self) -> None:
        """Name the experiment."""
        self.name_experiment()

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def run(self) -> None:
        """Run nothing."""


class Plan(NamedTuple):
    """What all runs have in common."""

    experiment: Path  # the folder of the runs
    config: Config  # resolved; its seed and fold are those of one of the runs
    flags: tuple[str, ...]  # of `scripts/train.py fit`


@dataclass
class PlannedRun:
    """The run of a seed, or of a seed and a fold."""

    seed: int
    folder: Path | None
    results: dict[str, Any] | None = None  # as in `results.json`
    problem: str | None = None  # why there are no results
    fold: int | None = None


def plan_runs(flags: Sequence[str], fold: int | None = None) -> Plan:
    """Read the configuration and the experiment's folder that `fit` with these flags would use."""
    reader = ConfigReader(["fit", *flags] if fold is None else ["fit", *flags, f"--data.fold={fold}"])
    return Plan(reader.config.runs / reader.experiment, yaml.safe_load(reader.config_text), tuple(flags))


def fit_several(args: Sequence[str]) -> int:
    """Train with several seeds or folds, print a table of the test metrics, and return the exit status."""
    parser = CommandParser(prog="scripts/train.py fit", add_help=False)
    parser.add_argument("--seeds", type=whole_number, default=1)
    parser.add_argument("--folds", type=partial(whole_number, least=2))
    parser.add_argument("--fold", type=partial(whole_number, least=0))
    options, flags = parser.parse_known_args(args)
    option = "--folds" if options.folds else "--seeds" if options.fold is None else "--fold"
    excluded = {"--resume", "--ckpt_path", "--like", *(["--data.fold"] if option != "--seeds" else [])}
    for flag in flags:
        if (name := flag.partition("=")[0]) in excluded:
            raise UserError(f"{option} and {name} are given, but {name} is about one run; leave one of them out.")
    if "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        raise UserError(
            f"{option} starts the processes of each run itself; give it to one process and --trainer.devices to the "
            "Trainer, or start each run with --seed_everything, --data.folds and --data.fold."
        )
    flags += [f"--data.folds={options.folds}"] if options.folds else []
    folds = range(options.folds) if options.folds and options.fold is None else [options.fold]
    plan = plan_runs(flags, folds[0])
    first = plan.config["seed_everything"]
    try:
        runs = train_several(plan, range(first, first + options.seeds), folds)
    except Stopped as stop:
        command = shlex.join(["scripts/train.py", "fit", *args])
        print(f"stopped by {stop.signal.name}; finished runs are kept; continue with: {command}")
        raise
    print_summary(runs, options.folds)
    return int(any(run.problem for run in runs))


def train_several(plan: Plan, seeds: Sequence[int], folds: Sequence[int | None] = (None,)) -> list[PlannedRun]:
    """Train and test each seed in each fold, the first seed of all folds first.

    A finished run with the same configuration and data is kept, and an unfinished one is resumed. If a run fails, the
    others are trained anyway.
    """
    if seeds[-1] >= 2**32:
        raise UserError(f"The last seed is {seeds[-1]}; give seeds from 0 to {2**32 - 1}.")
    if path := plan.config["ckpt_path"]:
        raise UserError(f"The configuration has the ckpt_path {path}, which is of one run; leave it out.")
    if plan.config["trainer"].get("fast_dev_run"):
        raise UserError("trainer.fast_dev_run writes no results that could be compared; leave it out.")
    return [_train(plan, seed, fold) for seed in seeds for fold in folds]


def _train(plan: Plan, seed: int, fold: int | None) -> PlannedRun:
    earlier = find_run(plan, seed, fold)
    run = PlannedRun(seed, earlier, fold=fold)
    name = f"{plan.experiment.name}, {'' if fold is None else f'fold {fold}, '}seed {seed}"
    if earlier and is_tested(results := read_results(earlier)):
        print(f"{name}: finished in {earlier}", flush=True)
        run.results = results
        return run
    print(f"{name}: resuming" if earlier else name, flush=True)
    fold_flags = [] if fold is None else [f"--data.fold={fold}"]
    new = [*plan.flags, *fold_flags, "--seed_everything", str(seed)]
    status, error = _fit(["--resume", str(earlier)] if earlier else new)
    run.folder = find_run(plan, seed, fold)
    if status == 0 and run.folder:
        run.results = read_results(run.folder)
        return run
    run.problem = error or f"it ended with status {status}"
    if status == 2 and not earlier:
        raise UserError(run.problem)  # each run would fail in the same way
    if status < 0:
        run.problem = (
            f"it {way_of_death(status)}; resume it with the same command, or start again with fewer "
            "--data.num_workers or a smaller --data.batch_size"
        )
    print(f"error: {name}: {run.problem}", file=sys.stderr)
    return run


def _fit(flags: Sequence[str]) -> tuple[int, str]:
    """Run `fit` in another process, which stops on a signal to this one; return its exit status and last error."""
    # A process group of its own, so that Ctrl-C in a terminal reaches it only once, and no breakpoint could be used.
    environment = os.environ | {PARENT: str(os.getpid()), "PYTHONBREAKPOINT": "0"}
    command = [sys.executable, str(TRAIN), "fit", *flags]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment, process_group=0
    ) as process:
        assert process.stderr is not None, "asked for"
        try:
            error = _print_lines(process.stderr)
        except Stopped as stop:
            process.send_signal(signal.SIGTERM if stop.signal == signal.SIGINT else stop.signal)
            if error := _print_lines(process.stderr):
                print(f"error: {error}", file=sys.stderr)
            raise
    return process.returncode, error


def _print_lines(lines: Iterable[str]) -> str:
    """Print what a run writes to stderr, except its errors; return the last error, which the caller prints."""
    error = ""
    for line in lines:
        if line.startswith("error: "):
            error = line.removeprefix("error: ").strip()
        else:
            print(line, end="", file=sys.stderr, flush=True)
    return error


def find_run(plan: Plan, seed: int, fold: int | None = None) -> Path | None:
    """Return the newest run of a seed and a fold with the plan's configuration and data, a finished one if any."""
    data = plan.config["data"]
    planned = plan.config | {"data": data | {"init_args": data["init_args"] | ({} if fold is None else {"fold": fold})}}
    candidates = []
    for file in sorted(plan.experiment.glob(f"*/{CONFIG}")):
        if f"seed_everything: {seed}\n" in file.read_text(errors="replace"):
            with suppress(UserError):  # the file is damaged
                config = {"test": True} | read_config(file) | {key: planned[key] for key in ELSEWHERE}
                candidates += [file.parent] if config == planned else []
    if not candidates:
        return None
    images = data_of_config(planned)
    images.prepare_data()
    fingerprint = escape_name(images.data_fingerprint)
    runs = [run for run in candidates if (read_origin(run) or {}).get("data_fingerprint") == fingerprint]
    finished = [run for run in runs if is_tested(read_results(run))]
    return max(finished or runs, key=order_of_start, default=None)


def print_summary(runs: Sequence[PlannedRun], folds: int | None = None) -> None:
    """Print a table of the test metrics of each run, with their means and what `±` is."""
    from scripts.report.table import Table, show
    from scripts.uncertainty.mean import caption, mean_of_runs

    metrics = [(run.results or {}).get("metrics", {}) for run in runs]
    names = sorted({name for values in metrics for name in values if name.startswith("test/")})
    rows = []
    for run, values in zip(runs, metrics, strict=True):
        cells = [f"{values[name]:.4f}" if name in values else "" for name in names]
        # Cut off the settings in the folder's name, which all runs share.
        folder = re.sub(r"_[a-z]\w*=.*", "", run.folder.name) if run.folder and not run.problem else "failed"
        rows.append([f"{run.seed}" if run.fold is None else f"{run.seed}, {run.fold}", *cells, folder])
    means = [
        mean_of_runs(
            [(run.fold, values[name]) for run, values in zip(runs, metrics, strict=True) if name in values], folds
        )
        for name in names
    ]
    rows += [["mean", *(mean.shown() for mean in means), ""]] if means else []
    heading = "seed" if runs[0].fold is None else "seed, fold"
    show(Table([heading, *names, "run"], rows, frozenset({len(runs)}), caption(means)))
    if parent := next((run.folder.parent for run in runs if run.folder), None):
        print(f"runs  {parent}")
