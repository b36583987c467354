"""Train the published experiments, and write RESULTS.md, a table of published and measured metrics.

    python scripts/reproduce.py [--only mnist/convnet ...] [--seeds 3] [any flag of scripts/train.py]

A finished run with the same configuration and data is not trained again. If an experiment fails, its row says why, and
the others are still trained. Rows of other experiments, and the text around the table, stay unchanged.
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

Written by `scripts/reproduce.py`. Measured is the accuracy of a run: `test` with the weights of the best epoch,
`train` and `val` in the last epoch. With several seeds, it is the mean ± half of its 95% t-interval.

| experiment | published | measured | parameters | epochs | time | hardware | command |
|---|---|---|---:|---:|---:|---|---|
"""


class Experiment(NamedTuple):
    """A published experiment."""

    name: str  # the path of its file under configs/, without the ending
    published: str  # the metrics of the source
    at_least: float | None = None  # the accuracy to reach, if one was published
    classes: int | None = None  # the number of classes of the published data; a run with fewer is not compared


# The images that the sources call validation are the test split here.
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


def row(experiment: Experiment, results: Sequence[dict[str, Any]], problem: str, flags: Sequence[str]) -> str:
    """Return an experiment's line of the table.

    Args:
        experiment: The experiment.
        results: The `results.json` of each finished run.
        problem: Why a run has failed; empty if none has.
        flags: Flags that were added to its configuration.
    """
    from scripts.uncertainty.mean import mean_over_seeds

    problem = problem.replace("|", "\\|")
    command = shlex.join(["python", "scripts/train.py", "fit", "--config", f"configs/{experiment.name}.yaml", *flags])
    if not results:
        return f"| {experiment.name} | {experiment.published} | not run: {problem} | | | | | `{command}` |"
    accuracies = {
        name: [run["metrics"][f"{name}/accuracy"] for run in results if f"{name}/accuracy" in run["metrics"]]
        for name in ("test", "train", "val")
    }
    measured = f"test {mean_over_seeds(accuracies['test']).shown()}"
    if experiment.classes not in (None, classes := results[0].get("classes")):
        measured += f" (of {classes} classes, published of {experiment.classes}: not compared)"
    elif experiment.at_least is not None:
        # Rounded, because accuracies are float32, in which 0.9845 is a little less.
        measured += " (reached)" if round(mean(accuracies["test"]), 6) >= experiment.at_least else " (**below**)"
    measured += "".join(f", {name} {mean(accuracies[name]):.4f}" for name in ("train", "val") if accuracies[name])
    measured += f"; {len(results)} seeds" if len(results) > 1 else ""
    measured += f"; another seed failed: {problem}" if problem else ""
    hardware = ", ".join(sorted({f"{run['hardware']}, {run['precision']}" for run in results}))
    seconds = timedelta(seconds=round(mean(run["seconds"] for run in results)))
    return (
        f"| {experiment.name} | {experiment.published} | {measured} | {results[0]['parameters']:,} "
        f"| {mean(run['epochs'] for run in results):g} | {seconds} | {hardware} | `{command}` |"
    )


def write_row(path: Path, row: str) -> None:
    """Replace an experiment's line in the table of a file, or add it below the others."""
    from core.durable_file import replace_file

    text = path.read_text() if path.exists() else ""
    lines = (text if "\n|---" in text else f"{text}{HEADING}").splitlines()
    beginning = row[: row.index(" |") + 2]
    table = [number for number, line in enumerate(lines) if line.startswith("|")]
    place = next((number for number in table if lines[number].startswith(beginning)), table[-1] + 1)
    lines[place : place + (place in table)] = [row]
    replace_file(path, "\n".join(lines) + "\n")


def main(args: Sequence[str] | None = None) -> None:
    """Train the chosen experiments and write the table; the exit status is 1 if a run has failed."""
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
            fixed = ["--config", str(CONFIGS / f"{name}.yaml"), "--experiment", name, "--runs", str(options.runs)]
            try:
                runs = train_several(plan_runs([*fixed, *flags]), range(options.seeds))
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
