"""Train the published experiments and write RESULTS.md: published figures beside measured ones.

    python scripts/reproduce.py [--only mnist/convnet ...] [--seeds 3] [any flag of scripts/train.py]

A run with the same files and flags is not trained again. If an experiment fails, its row says why, and the others go
on. Every measured figure comes from a run. Other rows, and the text around the table, stay as they are.
"""

import shlex
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from core.user_error import UserError
from scripts.command.boundary import CommandParser, whole_number
from scripts.command.expansion import to_path
from scripts.command.output_file import check_output
from scripts.command.process import training_process

HEADING = """# Results

Written by `scripts/reproduce.py`; every measured figure is accuracy that a run gave, `test` with the best
epoch's weights, `train` and `val` in the last. Of several seeds: mean ± half of its 95% t-interval.

| experiment | published | measured | parameters | epochs | time | hardware | command |
|---|---|---|---:|---:|---:|---|---|
"""


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


def row(experiment: Experiment, done: Sequence[dict[str, Any]], problem: str, flags: Sequence[str]) -> str:
    """The experiment's line of the table, by the `results.json` of its runs, and why one is missing."""
    from scripts.uncertainty.mean import mean_over_seeds

    problem = problem.replace("|", "\\|")
    command = shlex.join(["python", "scripts/train.py", "fit", "--config", f"configs/{experiment.name}.yaml", *flags])
    if not done:
        return f"| {experiment.name} | {experiment.published} | not run: {problem} | | | | | `{command}` |"
    measured = {
        name: [results["metrics"][f"{name}/accuracy"] for results in done if f"{name}/accuracy" in results["metrics"]]
        for name in ("test", "train", "val")
    }
    figures = f"test {mean_over_seeds(measured['test']).shown()}"
    if experiment.classes not in (None, classes := done[0].get("classes")):
        figures += f" (of {classes} classes, published of {experiment.classes}: not compared)"
    elif experiment.at_least is not None:
        # Figures are kept in float32, in which 0.9845 is a little less.
        figures += " (reached)" if round(mean(measured["test"]), 6) >= experiment.at_least else " (**below**)"
    figures += "".join(f", {name} {mean(measured[name]):.4f}" for name in ("train", "val") if measured[name])
    figures += f"; {len(done)} seeds" if len(done) > 1 else ""
    figures += f"; another seed failed: {problem}" if problem else ""
    hardware = ", ".join(sorted({f"{results['hardware']}, {results['precision']}" for results in done}))
    seconds = timedelta(seconds=round(mean(results["seconds"] for results in done)))
    return (
        f"| {experiment.name} | {experiment.published} | {figures} | {done[0]['parameters']:,} "
        f"| {mean(results['epochs'] for results in done):g} | {seconds} | {hardware} | `{command}` |"
    )


def write_row(path: Path, line: str) -> None:
    """Write a line into the table, in place of the experiment's line before or below the others."""
    from core.durable_file import replace_file

    text = path.read_text() if path.exists() else ""
    lines = (text if "\n|---" in text else f"{text}{HEADING}").splitlines()
    beginning = line[: line.index(" |") + 2]
    table = [number for number, other in enumerate(lines) if other.startswith("|")]
    place = next((number for number in table if lines[number].startswith(beginning)), table[-1] + 1)
    lines[place : place + (place in table)] = [line]
    replace_file(path, "\n".join(lines) + "\n")


def main(args: Sequence[str] | None = None) -> None:
    """Run what was chosen and write the table; exit status 1 if a run failed."""
    experiments = {experiment.name: experiment for experiment in EXPERIMENTS}
    parser = CommandParser(prog="scripts/reproduce.py", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=experiments, default=[*experiments], metavar="EXPERIMENT", help="by default all"
    )
    parser.add_argument("--seeds", type=whole_number, default=1, help="runs of each, with seeds 0, 1, ...")
    parser.add_argument("--runs", type=to_path, default=Path("runs"), help="the folder of all runs")
    parser.add_argument("--output", type=to_path, default=Path("RESULTS.md"), help="the table")
    with training_process():
        options, flags = parser.parse_known_args(args)
        check_output(options.output, overwrite=True)
        from scripts.command.configuration import CONFIGS
        from scripts.training.several_runs import plan_runs, train_several

        failed = False
        for name in dict.fromkeys(options.only):
            own = ["--config", str(CONFIGS / f"{name}.yaml"), "--experiment", name, "--runs", str(options.runs)]
            try:
                runs = train_several(plan_runs([*own, *flags]), range(options.seeds))
                problem = next((run.problem for run in runs if run.problem), "")
            except UserError as error:
                runs, problem = [], str(error)
                print(f"error: {name}: {error}", file=sys.stderr)
            results = [run.results for run in runs if run.results]
            write_row(options.output, row(experiments[name], results, problem, flags))
            failed = failed or bool(problem)
    print(options.output)
    sys.exit(failed)


if __name__ == "__main__":
    main()
