"""Train the published experiments and write RESULTS.md: what was published beside what was measured.

    python scripts/reproduce.py [--only mnist/convnet ...] [--seeds 3] [any flag of scripts/train.py]

A run that was done before with the same files and flags is not done again. After a failure the others go on, and the
table says what was wrong. Every figure is one that a run gave.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any

from callbacks.run.run_folder import is_tested, read_results
from core.durable_file import replace_file
from core.plain_data import read_json
from core.stopping import Stopped
from core.user_error import UserError
from scripts.command.configuration import CONFIGS
from scripts.command.expansion import to_path
from scripts.command.output_file import refuse_output
from scripts.command.process import training_process
from scripts.training.seeds import number_of_seeds, spread, train_seeds
from scripts.training.seeds_plan import plan_seeds


@dataclass(frozen=True)
class Experiment:
    """A published experiment.

    Args:
        name: Its file under configs/, without the ending.
        published: What its source gives.
        figure: The figure of ours that is compared with it.
        at_least: The number to reach, if one was published.
        classes: Of the data that it was published for; on fewer nothing is reached.
    """

    name: str
    published: str
    figure: str = "test/accuracy"
    at_least: float | None = None
    classes: int | None = None


# The published experiments. What their sources call validation is here reported as test, on the same images.
EXPERIMENTS = (
    Experiment("mnist/convnet", "test 0.989", at_least=0.989),
    Experiment("cifar2/mlp", "val 0.794", at_least=0.794),
    Experiment("cifar2/deep-mlp", "train 0.998, val 0.802", at_least=0.802),
    Experiment("cifar3/convnet", "train 0.9295, val 0.8713", at_least=0.8713),
    Experiment("cifar10/mlp", "3,738,506 parameters"),
    Experiment("tiny-imagenet/convnet", "train 0.92, val 0.22", at_least=0.22, classes=200),
    Experiment("tiny-imagenet/dropout", "train 0.44, val 0.40", at_least=0.40, classes=200),
    Experiment("tiny-imagenet/batchnorm", "val 0.39", at_least=0.39, classes=200),
    Experiment("tiny-imagenet/resnet18", "val 0.48", at_least=0.48, classes=200),
    Experiment("dogs-vs-cats/convnet", "val 0.75", at_least=0.75),
    Experiment("dogs-vs-cats/vgg16", "val 0.9845", at_least=0.9845),
    Experiment("dogs-vs-cats/vgg16-dropout", "val about 0.985", at_least=0.985),
    Experiment("dogs-vs-cats/vgg16-augmented", "val 0.985", at_least=0.985),
    Experiment("dogs-vs-cats/vgg16-features", "an epoch in under 5 s, same accuracy", at_least=0.9845),
)


@dataclass
class Outcome:
    """What became of an experiment.

    Args:
        experiment: Which.
        runs: The results of its runs, as in `results.json`.
        flags: The flags that they were run with.
        problem: Why there are none, or why one is missing.
    """

    experiment: Experiment
    runs: list[dict[str, Any]]
    flags: Sequence[str] = ()
    problem: str | None = None


class Ledger:
    """Remembers in a file which runs the table shows, with the flags that they were asked for, and what had no run.

    Args:
        runs: The folder of all runs.
    """

    def __init__(self, runs: Path) -> None:
        self._file = runs / "reproduced.json"
        self._runs = runs
        try:
            entries = read_json(self._file)
        except (OSError, ValueError):  # none yet, or half of one: then runs are looked for again
            entries = {}
        self._entries: dict[str, dict[str, Any]] = {}
        for key, entry in entries.items() if isinstance(entries, dict) else ():
            match entry:
                case {"folder": str(), "flags": list()} | {"problem": str(), "flags": list()}:
                    self._entries[key] = entry

    def find(self, experiment: Experiment) -> Outcome:
        """What became of an experiment when it was last asked for: the runs of one command that are still there."""
        found: list[tuple[dict[str, Any], list[str]]] = []
        for key, entry in self._entries.items():
            is_run = key.rpartition(" ")[0] == experiment.name and "folder" in entry
            if is_run and is_tested(results := read_results(self._runs / entry["folder"])):
                found.append((results, entry["flags"]))
        noted = self._entries.get(experiment.name, {"problem": "not asked for yet", "flags": []})
        if not found:
            return Outcome(experiment, [], noted["flags"], noted["problem"])
        flags = found[-1][1]
        runs = [results for results, asked_with in found if asked_with == flags]
        problem = noted["problem"] if noted["flags"] == flags and experiment.name in self._entries else None
        return Outcome(experiment, sorted(runs, key=lambda results: int(results["seed"])), flags, problem)

    def add(self, name: str, seed: int, folder: Path, flags: Sequence[str]) -> None:
        """Remember where a run is."""
        self._put(f"{name} {seed}", {"folder": str(folder.relative_to(self._runs)), "flags": list(flags)})

    def note(self, name: str, problem: str | None, flags: Sequence[str]) -> None:
        """Remember why a run is missing, or that none is."""
        self._put(name, {"problem": problem, "flags": list(flags)} if problem else None)

    def _put(self, key: str, entry: dict[str, Any] | None) -> None:
        self._entries.pop(key, None)  # what was asked for last stands last
        if entry:
            self._entries[key] = entry
        replace_file(self._file, json.dumps(self._entries, indent=2))


def train_experiment(experiment: Experiment, seeds: int, runs: Path, flags: Sequence[str]) -> Outcome:
    """Train and test an experiment with seeds 0, 1, ..., as far as that was not done."""
    config = CONFIGS / f"{experiment.name}.yaml"
    own = ("--config", str(config), "--experiment", experiment.name, "--runs", str(runs))
    try:
        if not config.exists():
            raise UserError(f"there is no configs/{experiment.name}.yaml; restore it.")
        done = train_seeds(plan_seeds([*own, *flags]), range(seeds))
    except UserError as error:
        print(f"error: {experiment.name}: {error}", file=sys.stderr)
        return Outcome(experiment, [], flags, str(error))
    ledger = Ledger(runs)
    for run in done:
        if run.folder and run.results:
            ledger.add(experiment.name, run.seed, run.folder, flags)
    problem = next((run.problem for run in done if run.problem), None)
    return Outcome(experiment, [run.results for run in done if run.results], flags, problem)


def row(outcome: Outcome) -> str:
    """The experiment's line of the table."""
    experiment, runs = outcome.experiment, outcome.runs
    flags = "".join(f" {shlex.quote(flag)}" for flag in outcome.flags)
    command = f"`python scripts/train.py fit --config configs/{experiment.name}.yaml{flags}`"
    problem = (outcome.problem or "").replace("|", "\\|")
    if not runs:
        return f"| {experiment.name} | {experiment.published} | not run: {problem} | | | | | {command} |"
    measured = [results["metrics"][experiment.figure] for results in runs]
    figures = f"{experiment.figure.partition('/')[0]} {spread(measured)}"
    if experiment.classes not in (None, runs[0].get("classes")):
        figures += f" (of {runs[0].get('classes')} classes, published of {experiment.classes}: not compared)"
    elif experiment.at_least is not None:
        # Figures are kept in float32, in which 0.9845 is a little less.
        figures += " (reached)" if round(mean(measured), 6) >= experiment.at_least else " (**below**)"
    for name in ("train/accuracy", "val/accuracy"):
        if all(name in results["metrics"] for results in runs):
            figures += f", {name.partition('/')[0]} {mean(results['metrics'][name] for results in runs):.4f}"
    figures += f"; {len(runs)} seeds" if len(runs) > 1 else ""
    figures += f"; another seed failed: {problem}" if problem else ""
    hardware = ", ".join(sorted({f"{results['hardware']}, {results['precision']}" for results in runs}))
    seconds = timedelta(seconds=round(mean(results["seconds"] for results in runs)))
    return (
        f"| {experiment.name} | {experiment.published} | {figures} | {runs[0]['parameters']:,} "
        f"| {mean(results['epochs'] for results in runs):g} | {seconds} | {hardware} | {command} |"
    )


def write_results(path: Path, outcomes: Sequence[Outcome], note: str = "") -> None:
    """Write the table."""
    lines = [
        "# Results",
        "",
        "Written by `scripts/reproduce.py`; every measured figure is accuracy that a run gave, `test` with the best",
        "epoch's weights, `train` and `val` in the last. What the sources call validation is `test` here: the same",
        "images, on which no epoch was chosen (but for Tiny ImageNet, whose test labels are not public: there both are",
        "the same).",
        "",
        "| experiment | published | measured | parameters | epochs | time | hardware | command |",
        "|---|---|---|---:|---:|---:|---|---|",
        *map(row, outcomes),
        *(["", note] if note else []),
    ]
    replace_file(path, "\n".join(lines) + "\n")


def reproduce(
    chosen: Sequence[str], seeds: int, runs: Path, output: Path, flags: Sequence[str], note: str = ""
) -> bool:
    """Run experiments and write the table of all, after each of them."""
    outcomes: dict[str, Outcome] = {}
    experiments = {experiment.name: experiment for experiment in EXPERIMENTS}
    for name in dict.fromkeys(chosen):
        outcomes[name] = outcome = train_experiment(experiments[name], seeds, runs, flags)
        ledger = Ledger(runs)  # which another process may have added to
        ledger.note(name, outcome.problem, flags)
        write_results(output, [outcomes.get(other.name) or ledger.find(other) for other in EXPERIMENTS], note)
    return not any(outcome.problem for outcome in outcomes.values())


def main(args: Sequence[str] | None = None) -> None:
    """Run what was chosen and write the table; exit status 1 if a run failed."""
    names = [experiment.name for experiment in EXPERIMENTS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="by default all")
    parser.add_argument("--seeds", default="1", help="runs of each, with seeds 0, 1, ...")
    parser.add_argument("--runs", type=to_path, default=Path("runs"), help="the folder of all runs")
    parser.add_argument("--output", type=to_path, default=Path("RESULTS.md"), help="the table")
    parser.add_argument("--note", default="", help="a line below the table, such as where the data came from")
    with training_process():
        options, flags = parser.parse_known_args(args)
        for name in options.only or ():
            if name not in names:
                raise UserError(f"There is no experiment {name}; choose from {', '.join(names)}.")
        seeds = number_of_seeds(options.seeds)
        refuse_output(options.output, overwrite=True)
        try:
            options.runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{options.runs} cannot be made: {error.strerror}; choose another folder with --runs."
            ) from error
        try:
            complete = reproduce(options.only or names, seeds, options.runs, options.output, flags, options.note)
        except Stopped as stop:
            print(f"stopped by {stop.signal.name}; what is done stays done; the same command goes on with the rest")
            raise
    print(options.output)
    sys.exit(not complete)


if __name__ == "__main__":
    main()
