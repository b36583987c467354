"""Networks that have been tested on the same images, and whether one of them is better.

Shapes: `N` images.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.plain_data import read_json
from core.user_error import UserError
from scripts.comparison.comparison import Group, differing_files, differing_settings
from scripts.comparison.runs import Run
from scripts.inference.predictions import Predictions, predict_split
from scripts.inference.run_checkpoint import folder_of
from scripts.inference.trained_network import TrainedNetwork, check_same_classes
from scripts.uncertainty.intervals import CONFIDENCE
from scripts.uncertainty.significance import (
    LEVEL,
    Difference,
    difference_on_the_same_images,
    difference_over_runs,
    varies,
)


@dataclass(frozen=True)
class Answers:
    """What a network took each image for.

    Args:
        class_names: The classes that it knows, in the order of their labels.
        images: The images' names, `N`.
        labels: Their classes' names, `N`.
        predictions: The names of the classes predicted, `N`.
    """

    class_names: tuple[str, ...]
    images: list[str]
    labels: list[str]
    predictions: list[str]

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Which images are right, bool `[N]`."""
        return np.array([label == taken for label, taken in zip(self.labels, self.predictions, strict=True)], bool)


def answers_of(run: Run, flags: Sequence[str]) -> Answers:
    """Test a run's network, unless `scripts/evaluate.py` has done so since it was trained."""
    assert run.checkpoint is not None, "a run without a checkpoint is not asked"
    found = None if flags else _evaluated(run, run.checkpoint)
    if found is None:
        trained = TrainedNetwork(run.checkpoint, content=run.content)
        found = _answers(predict_split(trained, trained.data(flags), "test"))
    return found


def _answers(found: Predictions) -> Answers:
    names = found.class_names
    labels, predictions = ([names[place] for place in places] for places in (found.labels, found.classes))
    return Answers(tuple(names), found.names, labels, predictions)


def _evaluated(run: Run, checkpoint: Path) -> Answers | None:
    """What an evaluation has found that is newer than the checkpoint and gave the accuracy of the run's own test."""
    folder = folder_of(checkpoint) / "evaluation"
    try:
        figures = read_json(folder / "evaluation.json")
        with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        image = "path" if rows and "path" in rows[0] else "image"  # as earlier versions wrote
        columns = [[row[name] for row in rows] for name in (image, "label", "prediction")]
        found = Answers(tuple(figures["class_names"]), *columns)
        distinct = len({*found.class_names}) == len(found.class_names)  # an earlier version's may not be
        newer = (folder / "predictions.csv").stat().st_mtime_ns > checkpoint.stat().st_mtime_ns
        same = figures["split"] == "test" and Path(figures["checkpoint"]).resolve() == checkpoint.resolve()
        off = float(found.right.mean()) - run.figures["test/accuracy"] if rows else 1.0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return None
    return found if distinct and newer and same and abs(off) < 1e-6 else None


@dataclass(frozen=True)
class Verdict:
    """How a group compares with another.

    Args:
        subject: What is compared.
        reference: With what.
        difference: By how much the subject's accuracy is greater, for a number of comparisons that are made together.
        test: What gave the p-value, and on what.
        same: What is the same in both, if all is.
        begins: How the sentence does.
    """

    subject: str
    reference: str
    difference: Callable[[int], Difference]
    test: str
    same: str = ""
    begins: str = ""

    def sentence(self, tests: int) -> str:
        """Say it."""
        subject, reference = self.subject, self.reference
        if self.same:
            return f"{subject} and {reference} cannot be told apart: {self.same} ({self.test})."
        value, interval, p = self.difference(tests)
        points, better = 100 * value, "better" if value >= 0 else "worse"
        if math.isnan(p):
            return (
                f"{self.begins}nothing can be concluded about {subject} and {reference}: {subject} is {better} by "
                f"{abs(points):.2f} points, but one of them gave the same with every seed, so that its spread is not "
                f"known ({self.test})."
            )
        low, high = sorted(100 * (end if points >= 0 else -end) for end in interval)
        found = f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}' if p < 0.1 else f'= {p:.2f}'}"
        found += f" adjusted for {tests} comparisons" if tests > 1 else ""
        kind = "simultaneous interval" if tests > 1 else "interval"
        sized = f"{abs(points):.2f} points, {CONFIDENCE:.0%} {kind} {low:.2f} to {high:.2f}"
        told = f"({self.test.format(p=found)})"
        if p < LEVEL:
            return f"{self.begins}{subject} is {better} than {reference} by {sized} {told}."
        return f"{self.begins}{subject} and {reference} cannot be told apart: {subject} is {better} by {sized} {told}."


def on_the_same_images(one: Group, other: Group, first: Answers, second: Answers) -> Verdict:
    """Compare two networks image by image."""
    check_same_classes(first.class_names, second.class_names, one.letter, other.letter)
    if (first.images, first.labels) != (second.images, second.labels):
        common = len({*first.images} & {*second.images})
        raise UserError(
            f"{one.letter} was tested on {len(first.images):,} images, {other.letter} on {len(second.images):,}, of "
            f"which {common:,} have the same names; give runs with the same test split, or flags about data."
        )
    images = f"{len(first.images):,} test image{'s' if len(first.images) > 1 else ''}"
    same = ""
    if first.predictions == second.predictions:
        same = "both take every image for the same"
    elif (first.right == second.right).all():
        same = "both are right on the same images"
    compared = partial(difference_on_the_same_images, first.right, second.right)
    test = images if same else f"McNemar {{p}}, {images}"
    return Verdict(_network(other), _network(one), compared, test, same)


def over_runs(one: Group, other: Group) -> Verdict | None:
    """Compare two groups by the test accuracies of their runs, if each has two or more."""
    first, second = one.values("test/accuracy"), other.values("test/accuracy")
    if min(len(first), len(second)) < 2:
        return None
    runs = f"{len(second)} and {len(first)} runs"
    test = f"Welch's t-test {{p}}, {runs}" if varies(first) and varies(second) else runs
    return Verdict(other.letter, one.letter, partial(difference_over_runs, first, second), test, begins="Over seeds, ")


def _network(group: Group) -> str:
    run = tested_run(group)
    return f"{group.letter} (seed {run.seed})" if run and len(group.runs) > 1 else group.letter


def tested_run(group: Group) -> Run | None:
    """The run whose network stands for its group: the first that has a checkpoint, in the order of their seeds."""
    runs = (run for run in group.counted if run.checkpoint and not run.state.startswith("unfinished"))
    return next(runs, None)


def told(verdicts: Sequence[Verdict]) -> list[str]:
    """Say what has come of comparisons that were made together."""
    return [verdict.sentence(len(verdicts)) for verdict in verdicts]


def compare_groups(groups: Sequence[Group], predict: bool, flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Compare each group with the first; a network that has not been tested before gets its `test/accuracy`."""
    paired, repeated, notes = [], [], []
    answers: dict[str, Answers] = {}
    reference, *others = groups
    for group in groups if predict and others else ():
        run = tested_run(group)
        try:
            if run is None:
                raise UserError("it has no checkpoint of a run that has ended.")
            found = answers[group.letter] = answers_of(run, flags)
            run.figures.setdefault("test/accuracy", float(found.right.mean()))
        except UserError as error:
            notes.append(f"{group.letter} is not tested on the same images as the others: {error}")
        if group is reference and not answers:
            break
    for group in others:
        changed = [differing_files(reference, group)]
        if reference.letter in answers and group.letter in answers:
            try:
                pair = answers[reference.letter], answers[group.letter]
                paired.append(on_the_same_images(reference, group, *pair))
            except UserError as error:
                notes.append(f"{group.letter} is not compared with {reference.letter}: {error}")
                continue
        else:
            changed.append(differing_settings(reference, group))
        notes += filter(None, changed)
        if any(changed):
            continue
        single = [each.letter for each in (reference, group) if len(each.values("test/accuracy")) == 1]
        if verdict := over_runs(reference, group):
            repeated.append(verdict)
        elif len(single) == 1 or (single and group.letter not in answers):
            notes.append(
                f"Nothing can be concluded over seeds about {group.letter} and {reference.letter}: only one run of "
                f"{' and of '.join(single)} was tested; fit --seeds trains several."
            )
    if max(len(paired), len(repeated)) > 1:
        notes.append(
            f"P-values and intervals of each kind of test hold for all its comparisons together (Bonferroni): where "
            f"there is no difference, one is found with a probability of at most {LEVEL:.0%}."
        )
    return told(paired) + told(repeated), notes
