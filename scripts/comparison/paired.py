"""Compare groups: on the same test images, and over seeds or folds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from core.names import some_of
from core.user_error import UserError
from scripts.comparison.comparison import Group, differing_files, differing_settings
from scripts.comparison.runs import Run
from scripts.inference.predictions import Predictions, predict_split
from scripts.inference.trained_network import TrainedNetwork, check_same_classes
from scripts.uncertainty.intervals import CONFIDENCE
from scripts.uncertainty.significance import (
    LEVEL,
    Difference,
    difference_on_the_same_images,
    difference_over_folds,
    difference_over_runs,
)

ACCURACY, EXACT_MATCH = "test/accuracy", "test/exact_match"

# The tests by what they are over, or of images.
TESTS = {"folds": "corrected resampled t-test", "seeds": "Welch's t-test", "": "McNemar"}
UNKNOWN = {"folds": "the difference is the same in every fold", "seeds": "one of them gave the same with every seed"}


@dataclass(frozen=True)
class Verdict:
    """The comparison of a group, or of the run that stands for it, with the reference."""

    subject: str
    reference: str
    difference: Callable[[int], Difference]  # in accuracy, for a number of comparisons that are made together
    of: str  # how many images or runs
    same: str = ""  # how the predictions agree, if both are right on the same images
    over: str = ""  # "seeds" or "folds", if not the same images

    def sentence(self, tests: int) -> str:
        """Say which is better, by how much, and whether that is significant."""
        subject, reference = self.subject, self.reference
        if self.same:
            return f"{subject} and {reference} cannot be told apart: {self.same} ({self.of})."
        value, interval, p = self.difference(tests)
        begins = f"Over {self.over}, " if self.over else ""
        points, better = 100 * abs(value), "better" if value >= 0 else "worse"
        if math.isnan(p):
            return (
                f"{begins}nothing can be concluded about {subject} and {reference}: {subject} is {better} by "
                f"{points:.2f} points, but {UNKNOWN[self.over]}, so that its spread is not known ({self.of})."
            )
        low, high = sorted(100 * (end if value >= 0 else -end) for end in interval)
        shown = f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}' if p < 0.1 else f'= {p:.2f}'}"
        shown += f" adjusted for {tests} comparisons" if tests > 1 else ""
        kind = "simultaneous interval" if tests > 1 else "interval"
        size = f"{points:.2f} points, {CONFIDENCE:.0%} {kind} {low:.2f} to {high:.2f} "
        size += f"({TESTS[self.over]} {shown}, {self.of})"
        if p < LEVEL:
            return f"{begins}{subject} is {better} than {reference} by {size}."
        return f"{begins}{subject} and {reference} cannot be told apart: {subject} is {better} by {size}."


def on_the_same_images(one: Group, other: Group, first: Predictions, second: Predictions) -> Verdict:
    """Compare two networks image by image."""
    check_same_classes(first.class_names, second.class_names, one.name, other.name)
    if first.is_multi_label != second.is_multi_label:
        raise UserError("One has several labels per image, the other one; give runs that have the same.")
    if first.names != second.names or (first.labels != second.labels).any():
        common = len({*first.names} & {*second.names})
        raise UserError(
            f"{one.name} was tested on {len(first):,} images, {other.name} on {len(second):,}, and {common:,} have "
            "the same names; give runs with the same test split, or flags about data."
        )
    images = f"{len(first):,} test image{'s' if len(first) > 1 else ''}"
    images += ", right if all labels are" if first.is_multi_label else ""
    same = ""
    if (first.classes == second.classes).all():
        same = "both predict the same class for every image"
    elif (first.is_right == second.is_right).all():
        same = "both are right on the same images"
    compared = partial(difference_on_the_same_images, first.is_right, second.is_right)
    return Verdict(_network(other), _network(one), compared, images, same)


def over_runs(one: Group, other: Group, figure: str = ACCURACY) -> Verdict | None:
    """Compare two groups by a figure of their runs, or of the folds that both have, if there are two or more."""
    first, second = one.values(figure), other.values(figure)
    difference, of, over = partial(difference_over_runs, first, second), f"{len(second)} and {len(first)} runs", "seeds"
    if one.folds and other.folds:
        figures = one.of_folds(figure), other.of_folds(figure)
        common = sorted(figures[0].keys() & figures[1].keys())
        first, second = ([of_fold[fold] for fold in common] for of_fold in figures)
        difference = partial(difference_over_folds, first, second, one.folds)
        of, over = f"{len(common)} folds", "folds"
    return Verdict(other.name, one.name, difference, of, over=over) if min(len(first), len(second)) > 1 else None


def _network(group: Group) -> str:
    run = tested_run(group)
    return f"{group.name} (seed {run.seed})" if run and len(group.runs) > 1 else group.name


def tested_run(group: Group) -> Run | None:
    """The run that stands for its group: the one of the lowest seed that has ended and has a checkpoint."""
    runs = (run for run in group.counted if run.checkpoint and not run.state.startswith("unfinished"))
    return next(runs, None)


def sentences(verdicts: Sequence[Verdict]) -> list[str]:
    """The sentences of comparisons that are made together."""
    return [verdict.sentence(len(verdicts)) for verdict in verdicts]


def predict_groups(groups: Sequence[Group], flags: Sequence[str]) -> tuple[dict[str, Predictions], list[str]]:
    """Let a network of each group predict its test images, or those that flags about data ask for; say which cannot.

    A run that was not tested before gets its `test/accuracy`. No network stands for a cross-validation, whose folds are
    compared.
    """
    predictions: dict[str, Predictions] = {}
    notes: list[str] = []
    for group in [group for group in groups if not group.folds] if len(groups) > 1 else ():
        run = tested_run(group)
        try:
            if run is None or run.checkpoint is None:
                raise UserError("it has no checkpoint of a run that has ended.")
            trained = TrainedNetwork(run.checkpoint, content=run.content)
            predictions[group.name] = of_run = predict_split(trained, trained.data(flags), "test")
            run.figures.setdefault(ACCURACY, of_run.accuracy)
        except UserError as error:
            notes.append(f"{group.name} is not tested on the same images as the others: {error}")
        if not predictions:
            break  # nothing to compare the others with
    return predictions, notes


def compare_groups(groups: Sequence[Group], predictions: Mapping[str, Predictions]) -> tuple[list[str], list[str]]:
    """Compare each group with the first."""
    paired, repeated, notes = [], [], []
    reference, *others = groups
    for group in others:
        changed = [differing_files(reference, group)]
        if reference.name in predictions and group.name in predictions:
            pair = predictions[reference.name], predictions[group.name]
            try:
                paired.append(on_the_same_images(reference, group, *pair))
            except UserError as error:
                notes.append(f"{group.name} is not compared with {reference.name}: {error}")
                continue
        else:
            changed.append(differing_settings(reference, group))
        notes += filter(None, changed)
        if any(changed):
            continue
        if verdict := over_runs(reference, group):
            repeated.append(verdict)
        elif reference.folds:
            notes.append(
                f"{group.name} is not compared with {reference.name}: fewer than two folds of both were tested; train "
                "the others with fit --folds."
            )
    single = [group.name for group in groups if not group.folds and len(group.values(ACCURACY)) == 1]
    if others and single and (len(single) < len(groups) or len(predictions) < len(groups)):
        notes.append(
            f"Nothing can be concluded over seeds about {some_of(single)}: only one run of each was tested; "
            "train several with fit --seeds."
        )
    if max(len(paired), len(repeated)) > 1:
        notes.append(
            f"P-values and intervals of each kind of test hold for all its comparisons together (Bonferroni): where "
            f"there is no difference, one is found with a probability of at most {LEVEL:.0%}."
        )
    return sentences(paired) + sentences(repeated), notes
