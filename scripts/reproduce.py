"""Train the published experiments and write RESULTS.md: what was published beside what was measured.

    python scripts/reproduce.py [--only mnist/convnet ...] [--seeds 3] [any flag of scripts/train.py]

A run that was done before with the same files and flags is not done again. After a failure the others go on, and the
table says what was wrong. Every figure is one that a run gave.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from scripts.configuration import CONFIGS, mistakes_in_one_sentence

TRAIN = Path(__file__).with_name("train.py")


@dataclass(frozen=True)
class Experiment:
    """A published experiment.

    Args:
        name: Its file under configs/, without the ending.
        published: What its source gives.
        figure: The figure of ours that is compared with it.
        at_least: The number to reach, if one was published.
    """

    name: str
    published: str
    figure: str = "test/accuracy"
    at_least: float | None = None


EXPERIMENTS = (
    Experiment("mnist/convnet", "test 0.989", at_least=0.989),
    Experiment("cifar2/mlp", "val 0.794", at_least=0.794),
    Experiment("cifar2/deep-mlp", "train 0.998, val 0.802", at_least=0.802),
    Experiment("cifar3/convnet", "train 0.9295, val 0.8713", at_least=0.8713),
    Experiment("cifar10/mlp", "3,738,506 parameters"),
    Experiment("tiny-imagenet/convnet", "train 0.92, val 0.22", at_least=0.22),
    Experiment("tiny-imagenet/dropout", "train 0.44, val 0.40", at_least=0.40),
    Experiment("tiny-imagenet/batchnorm", "val 0.39", at_least=0.39),
    Experiment("tiny-imagenet/resnet18", "val 0.48", at_least=0.48),
    Experiment("dogs-vs-cats/convnet", "val 0.75", at_least=0.75),
    Experiment("dogs-vs-cats/vgg16", "val 0.9845", at_least=0.9845),
    Experiment("dogs-vs-cats/vgg16-dropout", "val about 0.985", at_least=0.985),
    Experiment("dogs-vs-cats/vgg16-augmented", "val 0.985", at_least=0.985),
    Experiment("dogs-vs-cats/vgg16-features", "an epoch in under 5 s, same accuracy", at_least=0.9845),
)
"""The published experiments. What their sources call validation is here reported as test, on the same images."""


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
    """Remembers in a file which run was done with which files and flags.

    Args:
        runs: The folder of all runs.
    """

    def __init__(self, runs: Path) -> None:
        self._file = runs / "reproduced.json"
        self._runs = runs
        try:
            self._entries: dict[str, dict[str, Any]] = json.loads(self._file.read_text())
        except (OSError, ValueError):  # none yet, or half of one: then runs are done again
            self._entries = {}

    def find(self, name: str, seed: int, key: str | None = None) -> tuple[dict[str, Any], list[str]] | None:
        """The results and flags of a run that is still there; with a key, only of the run with that key."""
        entry = self._entries.get(f"{name} {seed}")
        if entry is None or key not in (None, entry["key"]):
            return None
        try:
            return json.loads((self._runs / entry["folder"] / "results.json").read_text()), entry["flags"]
        except (OSError, ValueError):
            return None

    def add(self, name: str, seed: int, key: str, folder: Path, flags: Sequence[str]) -> None:
        """Remember where a run is."""
        entry = {"key": key, "folder": str(folder.relative_to(self._runs)), "flags": list(flags)}
        self._entries[f"{name} {seed}"] = entry
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(self._entries, indent=2))
        part.replace(self._file)


def key_of(config: Path, seed: int, flags: Sequence[str]) -> str:
    """A digest of everything that a run is configured by."""
    parts = [config.read_bytes(), (CONFIGS / "default.yaml").read_bytes(), str(seed).encode()]
    return hashlib.sha256(b"\0".join([*parts, *(flag.encode() for flag in flags)])).hexdigest()[:16]


def run_once(name: str, seed: int, runs: Path, flags: Sequence[str]) -> dict[str, Any] | str:
    """Train and test an experiment with one seed, unless that was done.

    Args:
        name: The experiment.
        seed: The seed.
        runs: The folder of all runs.
        flags: Further flags of scripts/train.py.

    Returns:
        The run's results, or why there are none.
    """
    config, ledger = CONFIGS / f"{name}.yaml", Ledger(runs)
    if not config.exists():
        return f"there is no configs/{name}.yaml"
    key = key_of(config, seed, flags)
    if found := ledger.find(name, seed, key):
        return found[0]
    command = [sys.executable, str(TRAIN), "fit", "--config", str(config), "--seed_everything", str(seed)]
    command += ["--experiment", name, "--runs", str(runs), *flags]
    before = set(runs.glob(f"{name}/*/results.json"))
    print(f"{name}, seed {seed}", flush=True)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    made = sorted(set(runs.glob(f"{name}/*/results.json")) - before)
    if done.returncode or not made:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"it ended with {done.returncode}"]
        return lines[-1].removeprefix("error: ")
    ledger.add(name, seed, key, made[-1].parent, flags)
    results: dict[str, Any] = json.loads(made[-1].read_text())
    return results


def spread(values: Sequence[float], digits: int = 4) -> str:
    """The mean, and the standard deviation where there are several values.

    Example:
        >>> spread([0.98, 0.99]), spread([0.98])
        ('0.9850 ± 0.0071', '0.9800')
    """
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


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
    if experiment.at_least is not None:
        figures += " (reached)" if mean(measured) >= experiment.at_least else " (**below**)"
    for name in ("train/accuracy", "val/accuracy"):
        figures += f", {name.partition('/')[0]} {mean(results['metrics'][name] for results in runs):.4f}"
    figures += f"; {len(runs)} seeds" if len(runs) > 1 else ""
    figures += f"; another seed failed: {problem}" if problem else ""
    hardware = ", ".join(sorted({f"{results['hardware']}, {results['precision']}" for results in runs}))
    seconds = timedelta(seconds=round(mean(results["seconds"] for results in runs)))
    return (
        f"| {experiment.name} | {experiment.published} | {figures} | {runs[0]['parameters']:,} "
        f"| {mean(results['epochs'] for results in runs):g} | {seconds} | {hardware} | {command} |"
    )


def write_results(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the table.

    Args:
        path: The file; replaced whole.
        outcomes: What became of each experiment.
    """
    lines = [
        "# Results",
        "",
        "Written by `scripts/reproduce.py`; every measured figure is accuracy that a run gave. What the sources call",
        "validation is `test` here: the same images, on which no epoch was chosen (but for Tiny ImageNet, whose test",
        "labels are not public: there both are the same).",
        "",
        "| experiment | published | measured | parameters | epochs | time | hardware | command |",
        "|---|---|---|---:|---:|---:|---|---|",
        *map(row, outcomes),
    ]
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(path)


def reproduce(chosen: Sequence[str], seeds: int, runs: Path, output: Path, flags: Sequence[str]) -> bool:
    """Run experiments and write the table of all, after each of them.

    Args:
        chosen: The experiments to run; of the others the table shows what was done before.
        seeds: Runs of each.
        runs: The folder of all runs.
        output: The table.
        flags: Further flags of scripts/train.py.

    Returns:
        Whether every run gave results.
    """
    outcomes = {experiment.name: _done_before(experiment, seeds, runs) for experiment in EXPERIMENTS}
    complete = True
    for name in chosen:
        tried = [run_once(name, seed, runs, flags) for seed in range(seeds)]
        problems = [result for result in tried if isinstance(result, str)]
        results = [result for result in tried if not isinstance(result, str)]
        experiment = outcomes[name].experiment
        outcomes[name] = Outcome(experiment, results, flags, problems[0] if problems else None)
        complete = complete and not problems
        write_results(output, list(outcomes.values()))
    return complete


def _done_before(experiment: Experiment, seeds: int, runs: Path) -> Outcome:
    found = [entry for seed in range(seeds) if (entry := Ledger(runs).find(experiment.name, seed))]
    if not found:
        return Outcome(experiment, [], problem="not asked for yet")
    return Outcome(experiment, [results for results, _ in found], found[0][1])


def main(args: Sequence[str] | None = None) -> None:
    """Run what was chosen and write the table; exit status 1 if a run failed."""
    names = [experiment.name for experiment in EXPERIMENTS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", nargs="+", metavar="EXPERIMENT", help="by default all")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, with seeds 0, 1, ...")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of all runs")
    parser.add_argument("--output", type=Path, default=Path("RESULTS.md"), help="the table")
    options, flags = parser.parse_known_args(args)
    with mistakes_in_one_sentence():
        for name in options.only or ():
            if name not in names:
                raise MisconfigurationException(f"There is no experiment {name}; there are {', '.join(names)}.")
        if options.seeds < 1:
            raise MisconfigurationException(f"--seeds is {options.seeds}; give a whole number of at least 1.")
        options.runs.mkdir(parents=True, exist_ok=True)
    complete = reproduce(options.only or names, options.seeds, options.runs, options.output, flags)
    print(options.output)
    sys.exit(not complete)


if __name__ == "__main__":
    main()
