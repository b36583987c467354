"""Compare groups: on the same test images, and over seeds or folds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from core.names import some_of
from core.user_error import UserError
from scripts.comparison.comparison import Comparison, Group, differing_files, differing_settings
from scripts.comparison.runs import COSTS, Run
from scripts.inference.predictions import Predictions, predict_split
from scripts.inference.trained_network import TrainedNetwork, check_same_classes
from scripts.uncertainty.intervals import CONFIDENCE
from scripts.uncertainty.mean import by_fold
from scripts.uncertainty.significance import (
    LEVEL,
    Difference,
    difference_on_the_same_images,
    difference_over_folds,
    difference_over_runs,
)

ACCURACY, EXACT_MATCH = "test/accuracy", "test/exact_match"


@dataclass(frozen=True)
class Verdict:
    """The comparison of a group, or of the run that stands for it, with the reference."""

    subject: str
    reference: str
    test: str
    over: str  # "seeds", "folds" or "the same images"
    of: str  # how many images or runs
    difference: Callable[[int], Difference]  # in a figure, for a number of comparisons that are made together

    def sentence(self, tests: int) -> str:
        """Say which is better, by how much, and whether that is significant."""
        subject, reference = self.subject, self.reference
        value, interval, p = self.difference(tests)
        begins = "" if self.over == "the same images" else f"Over {self.over}, "
        points, better = f"{100 * abs(value):.2f} points", "better" if value >= 0 else "worse"
        if math.isnan(p):
            return (
                f"{begins}nothing can be concluded about {subject} and {reference}: {subject} is {better} by {points}, "
                f"but figures that do not differ over {self.over} do not say how large their spread is ({self.of})."
            )
        low, high = sorted(100 * (end if value >= 0 else -end) for end in interval)
        size = f"{points}, {CONFIDENCE:.0%} {'simultaneous ' if tests > 1 else ''}interval {low:.2f} to {high:.2f}"
        shown = f"p {'< 0.001' if p < 0.001 else f'= {p:.3f}' if p < 0.1 else f'= {p:.2f}'}"
        shown += f" adjusted for {tests} comparisons" if tests > 1 else ""
        if p < LEVEL:
            better = f"{better} than {reference}"
        else:
            begins += f"{subject} and {reference} cannot be told apart: "
        return f"{begins}{subject} is {better} by {size} ({self.test} {shown}, {self.of})."


def on_the_same_images(one: Group, other: Group, predictions: Mapping[str, Predictions]) -> Verdict:
    """Compare two networks image by image."""
    first, second = predictions[one.name], predictions[other.name]
    check_same_classes(first.class_names, second.class_names, one.name, other.name)
    if first.is_multi_label != second.is_multi_label:
        raise UserError("One has several labels per image, the other one; give runs that have the same.")
    if first.names != second.names or (first.labels != second.labels).any():
        common = len({*first.names} & {*second.names})
        raise UserError(
            f"{one.name} was tested on {len(first):,} images, {other.name} on {len(second):,}, and {common:,} have "
            "the same names; give runs with the same test split, or flags about data."
        )
    images = f"{len(first):,} test images{', right if all labels are' if first.is_multi_label else ''}"
    difference = partial(difference_on_the_same_images, first.is_right, second.is_right)
    return Verdict(_network(other), _network(one), "McNemar's test", "the same images", images, difference)


def over_runs(one: Group, other: Group, figure: str = ACCURACY) -> Verdict | None:
    """Compare two groups by a figure of their runs, or of the folds that both have, if there are two or more."""
    if one.folds and other.folds:
        figures = by_fold(one.measured(figure)), by_fold(other.measured(figure))
        common = sorted(figures[0].keys() & figures[1].keys())
        first, second = ([of_fold[fold] for fold in common] for of_fold in figures)
        test, over, of = "corrected resampled t-test", "folds", f"{len(common)} folds"
        difference = partial(difference_over_folds, first, second, one.folds)
    else:
        first, second = one.values(figure), other.values(figure)
        test, over, of = "Welch's t-test", "seeds", f"{len(second)} and {len(first)} runs"
        difference = partial(difference_over_runs, first, second)
    return Verdict(other.name, one.name, test, over, of, difference) if min(len(first), len(second)) > 1 else None


def _network(group: Group) -> str:
    run = tested_run(group)
    return f"{group.name} (seed {run.seed})" if run and len(group.runs) > 1 else group.name


def tested_run(group: Group) -> Run | None:
    """The run that stands for its group: the one of the lowest seed that has ended and has a checkpoint."""
    return next((run for run in group.counted if run.checkpoint and run.state != "unfinished"), None)


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


def compare_pair(
    one: Group, other: Group, figure: str, predictions: Mapping[str, Predictions]
) -> tuple[Verdict | None, Verdict | None, list[str]]:
    """Compare two groups on the same images and over runs, as far as that can be done; say why not."""
    on_images, changed = None, [differing_files(one, other)]
    if figure.startswith("test/") and {one.name, other.name} <= predictions.keys():
        try:
            on_images = on_the_same_images(one, other, predictions)
        except UserError as error:
            return None, None, [f"{other.name} is not compared with {one.name}: {error}"]
    else:
        changed.append(differing_settings(one, other, figure))
    changed = list(filter(None, changed))
    return on_images, None if changed else over_runs(one, other, figure), changed


def compare_groups(groups: Sequence[Group], predictions: Mapping[str, Predictions]) -> tuple[list[str], list[str]]:
    """Compare each group with the first."""
    paired, repeated, notes = [], [], list[str]()
    reference, *others = groups
    for group in others:
        on_images, over, why_not = compare_pair(reference, group, ACCURACY, predictions)
        paired += [on_images] if on_images else []
        repeated += [over] if over else []
        if reference.folds and not (over or why_not):
            why_not.append(
                f"{group.name} is not compared with {reference.name}: fewer than two folds of both were tested; train "
                "the others with fit --folds."
            )
        notes += why_not
    single = [group.name for group in groups if not group.folds and len(group.values(ACCURACY)) == 1]
    if others and single and (len(single) < len(groups) or len(predictions) < len(groups)):
        notes.append(
            f"Nothing can be concluded over seeds about {some_of(single)}: only one run of each was tested; "
            "train several with fit --seeds."
        )
    return [verdict.sentence(len(kind)) for kind in (paired, repeated) for verdict in kind], notes


def mark_best(comparison: Comparison, predictions: Mapping[str, Predictions]) -> Comparison:
    """Find the best group of each figure, but those of training, and the groups that are not significantly worse.

    Figures of several seeds or folds are compared over these, as their means are what the table shows; for want of
    them, networks on the same test images. P-values are adjusted for the number of comparisons with the best, so that
    the truly best group is bold with a probability of at least 95 % (J. Hsu, "Constrained simultaneous confidence
    intervals for multiple comparisons with the best", 1984).
    """
    standing: dict[str, dict[str, bool]] = {}
    tests: set[str] = set()
    for figure in comparison.figures:
        means = {group.name: mean.value for group in comparison.groups if (mean := group.mean(figure))}
        groups = [group for group in comparison.groups if math.isfinite(means.get(group.name, math.nan))]
        mode = comparison.groups[0].direction(figure)
        if figure in COSTS or figure.startswith("train/") or not mode or not groups:
            continue
        best = (min if mode == "min" else max)(groups, key=lambda group: means[group.name])
        for group in groups:
            if group is not best and (verdict := _verdict(figure, best, group, predictions)):
                tests.add(f"{verdict.test} over {verdict.over}")
                difference = verdict.difference(len(groups) - 1)
                worse = difference.p < LEVEL and (difference.value < 0) == (mode == "max")
                standing.setdefault(figure, {best.name: True})[group.name] = not worse
    bold = (
        f"Bold: the best, and what is not significantly worse at the {LEVEL:.0%} level (Bonferroni) by "
        f"{', '.join(sorted(tests))}. What cannot be tested is not bold."
    )
    return replace(comparison, standing=standing, bold=bold if tests else "")


def _verdict(figure: str, best: Group, group: Group, predictions: Mapping[str, Predictions]) -> Verdict | None:
    on_images, over, why_not = compare_pair(best, group, figure, predictions)
    if why_not or by_fold(best.measured(figure)).keys() != by_fold(group.measured(figure)).keys():
        return None
    if over and not math.isnan(over.difference(1).p):
        return over
    several = on_images and predictions[best.name].is_multi_label
    return on_images if figure == (EXACT_MATCH if several else ACCURACY) else None
