"""Train the published experiments and write RESULTS.md: published figures beside measured ones.

    python scripts/reproduce.py [--only mnist/convnet ...] [--seeds 3] [any flag of scripts/train.py]

A run with the same files and flags is not trained again. If an experiment fails, the others go on, and the table says
what was wrong. Every measured figure comes from a run. The rest of the table, rows and a note, stays as it is.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from core.stopping import Stopped
from core.user_error import UserError
from scripts.command.boundary import CommandParser
from scripts.command.expansion import to_path
from scripts.command.output_file import check_output
from scripts.command.process import training_process
from scripts.command.whole_number import whole_number


class Experiment(NamedTuple):
    """A published experiment."""

    name: str  # of its file under configs/, without the ending
    published: str  # the figures of its source
    at_least: float | None = None  # the accuracy to reach, if one was published
    classes: int | None = None  # of the published data; a run on fewer is not compared


# What the sources call validation is reported as test here, on the same images.
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


class Outcome(NamedTuple):
    """The outcome of an experiment."""

    flags: Sequence[str] = ()
    runs: Sequence[dict[str, Any]] = ()  # as in results.json
    problem: str | None = None  # why there are none, or why one is missing


def train_experiment(name: str, seeds: int, runs: Path, flags: Sequence[str]) -> Outcome:
    """Train and test an experiment with seeds 0, 1, ..., unless that was done."""
    from scripts.command.configuration import CONFIGS
    from scripts.training.several_runs import train_several
    from scripts.training.several_runs_plan import plan_runs

    config = CONFIGS / f"{name}.yaml"
    own = ("--config", str(config), "--experiment", name, "--runs", str(runs))
    try:
        if not config.exists():
            raise UserError(f"there is no configs/{name}.yaml; restore it.")
        done = train_several([plan_runs([*own, *flags])], range(seeds))
    except UserError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return Outcome(flags, problem=str(error))
    problem = next((run.problem for run in done if run.problem), None)
    return Outcome(flags, [run.results for run in done if run.results], problem)


def row(experiment: Experiment, outcome: Outcome) -> str:
    """The experiment's line of the table."""
    from scripts.uncertainty.mean import mean_over_seeds

    runs = outcome.runs
    flags = "".join(f" {shlex.quote(flag)}" for flag in outcome.flags)
    command = f"`python scripts/train.py fit --config configs/{experiment.name}.yaml{flags}`"
    problem = (outcome.problem or "").replace("|", "\\|")
    if not runs:
        return f"| {experiment.name} | {experiment.published} | not run: {problem} | | | | | {command} |"
    measured = [results["metrics"]["test/accuracy"] for results in runs]
    figures = f"test {mean_over_seeds(measured).shown()}"
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


def write_results(path: Path, outcomes: Mapping[str, Outcome], note: str = "") -> None:
    """Write the table; rows of other experiments, and the note unless another is given, stay as they are."""
    from core.durable_file import replace_file
    from scripts.uncertainty.mean import INTERVAL

    before = path.read_text() if path.exists() else ""
    rows = {line.split("|")[1].strip(): line for line in before.splitlines() if line.startswith("| ")}
    rows.pop("experiment", None)  # the heading
    note = note or before.rpartition("\n|")[2].partition("\n")[2].strip()
    for each in EXPERIMENTS:
        if each.name in outcomes or each.name not in rows:
            rows[each.name] = row(each, outcomes.get(each.name, Outcome(problem="not asked for yet")))
    lines = [
        "# Results",
        "",
        "Written by `scripts/reproduce.py`; every measured figure is accuracy that a run gave, `test` with the best",
        "epoch's weights, `train` and `val` in the last. What the sources call validation is `test` here: the same",
        "images, on which no epoch was chosen (but for Tiny ImageNet, whose test labels are not public: there both are",
        f"the same). Of several seeds: mean ± half of its {INTERVAL}.",
        "",
        "| experiment | published | measured | parameters | epochs | time | hardware | command |",
        "|---|---|---|---:|---:|---:|---|---|",
        *(rows.pop(each.name) for each in EXPERIMENTS),
        *rows.values(),
        *(["", note] if note else []),
    ]
    replace_file(path, "\n".join(lines) + "\n")


def reproduce(names: Sequence[str], seeds: int, runs: Path, output: Path, flags: Sequence[str], note: str) -> bool:
    """Run experiments and write the table of all after each of them; False if one failed."""
    outcomes: dict[str, Outcome] = {}
    for name in dict.fromkeys(names):
        outcomes[name] = train_experiment(name, seeds, runs, flags)
        write_results(output, outcomes, note)
    return not any(outcome.problem for outcome in outcomes.values())


def main(args: Sequence[str] | None = None) -> None:
    """Run what was chosen and write the table; exit status 1 if a run failed."""
    names = [experiment.name for experiment in EXPERIMENTS]
    parser = CommandParser(prog="scripts/reproduce.py", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="by default all")
    parser.add_argument("--seeds", type=whole_number, default=1, help="runs of each, with seeds 0, 1, ...")
    parser.add_argument("--runs", type=to_path, default=Path("runs"), help="the folder of all runs")
    parser.add_argument("--output", type=to_path, default=Path("RESULTS.md"), help="the table")
    parser.add_argument("--note", default="", help="a line below the table, such as where the data came from")
    with training_process():
        options, flags = parser.parse_known_args(args)
        if unknown := [name for name in options.only or () if name not in names]:
            raise UserError(f"There is no experiment {unknown[0]}; choose from {', '.join(names)}.")
        check_output(options.output, overwrite=True)
        try:
            complete = reproduce(
                options.only or names, options.seeds, options.runs, options.output, flags, options.note
            )
        except Stopped as stop:
            print(f"stopped by {stop.signal.name}; finished runs are kept; the same command goes on with the rest")
            raise
    print(options.output)
    sys.exit(not complete)


if __name__ == "__main__":
    main()
