"""Test whether groups of runs differ, on the same test images, over seeds or over folds, and mark the best."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from core.names import some_of
from core.user_error import UserError
from datamodules.packing.pack import FINGERPRINT
from scripts.comparison.comparison import Comparison
from scripts.comparison.groups import Group
from scripts.comparison.runs import COSTS, Run
from scripts.comparison.settings import MISSING, NULL
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

ACCURACY = "test/accuracy"

# The settings that decide which images are tested.
SPLIT_SETTINGS = (
    *("data", "data.folder", "data.classes", "data.limit", "data.test_size"),
    *("data.split_seed", "data.split_rule", "data.on_corrupt", "data.folds", "data.fold"),
)


@dataclass(frozen=True)
class Verdict:
    """The significance test of a subject against a reference; both are groups, or one network of each."""

    subject: str
    reference: str
    test: str
    over: str  # "seeds", "folds" or "the same images"
    sample: str  # the number of images, runs or folds
    difference: Callable[[int], Difference]  # adjusts p-value and interval for a number of tests

    def message(self, tests: int) -> str:
        """Say which is better, by how much, and whether that is significant, if as many tests are made together."""
        subject, reference = self.subject, self.reference
        value, interval, p = self.difference(tests)
        start = "" if self.over == "the same images" else f"Over {self.over}, "
        points, better = f"{100 * abs(value):.2f} points", "better" if value >= 0 else "worse"
        if math.isnan(p):
            return (
                f"{start}nothing can be concluded about {subject} and {reference}: {subject} is {better} by {points}, "
                f"but the metric does not vary over {self.over}, so that its spread is unknown ({self.sample})."
            )
        low, high = sorted(100 * (end if value >= 0 else -end) for end in interval)
        size = f"{points}, {CONFIDENCE:.0%} {'simultaneous ' if tests > 1 else ''}interval {low:.2f} to {high:.2f}"
        result = f"{self.test} p {'< 0.001' if p < 0.001 else f'= {p:.3f}' if p < 0.1 else f'= {p:.2f}'}"
        result += f" adjusted for {tests} comparisons" if tests > 1 else ""
        if p < LEVEL:
            claim = f"{subject} is {better} than {reference}"
        else:
            claim = f"{subject} and {reference} cannot be told apart: {subject} is {better}"
        return f"{start}{claim} by {size} ({result}, {self.sample})."


def on_the_same_images(reference: Group, group: Group, predictions: Mapping[str, Predictions]) -> Verdict:
    """Compare one network of each group image by image; raises UserError unless classes and images are equal."""
    first, second = predictions[reference.name], predictions[group.name]
    check_same_classes(first.class_names, second.class_names, reference.name, group.name)
    if first.is_multi_label != second.is_multi_label:
        raise UserError("One is multi-label, the other single-label; give runs of the same kind.")
    if first.names != second.names or (first.labels != second.labels).any():
        common = len({*first.names} & {*second.names})
        raise UserError(
            f"{reference.name} was tested on {len(first):,} images, {group.name} on {len(second):,}, and {common:,} "
            "have the same names; give runs with the same test split, or flags about data."
        )
    images = f"{len(first):,} test images{', right if all labels are' if first.is_multi_label else ''}"
    difference = partial(difference_on_the_same_images, first.is_right, second.is_right)
    names = _network_name(group), _network_name(reference)
    return Verdict(*names, "McNemar's test", "the same images", images, difference)


def over_runs(reference: Group, group: Group, metric: str = ACCURACY) -> Verdict | None:
    """Compare a metric over the folds that both groups have, or over all runs; None with fewer than two of either."""
    if reference.folds and group.folds:
        by_fold_1, by_fold_2 = by_fold(reference.values_with_folds(metric)), by_fold(group.values_with_folds(metric))
        common = sorted(by_fold_1.keys() & by_fold_2.keys())
        first, second = [by_fold_1[fold] for fold in common], [by_fold_2[fold] for fold in common]
        test, over, sample = "corrected resampled t-test", "folds", f"{len(common)} folds"
        difference = partial(difference_over_folds, first, second, reference.folds)
    else:
        first, second = reference.values(metric), group.values(metric)
        test, over, sample = "Welch's t-test", "seeds", f"{len(second)} and {len(first)} runs"
        difference = partial(difference_over_runs, first, second)
    if min(len(first), len(second)) < 2:
        return None
    return Verdict(group.name, reference.name, test, over, sample, difference)


def _network_name(group: Group) -> str:
    run = tested_run(group)
    return f"{group.name} (seed {run.seed})" if run and len(group.runs) > 1 else group.name


def tested_run(group: Group) -> Run | None:
    """Return the run whose network is compared image by image: the finished run with a checkpoint and lowest seed."""
    return next((run for run in group.measured_runs if run.checkpoint and run.state != "unfinished"), None)


def predict_groups(groups: Sequence[Group], flags: Sequence[str]) -> tuple[dict[str, Predictions], list[str]]:
    """Predict the test images with one network of each group; also return a note for each group that cannot.

    Flags about data select other images. A run that was not tested gets its `test/accuracy`. A cross-validation is left
    out, because no single network represents it.
    """
    predictions: dict[str, Predictions] = {}
    notes: list[str] = []
    for group in [group for group in groups if not group.folds] if len(groups) > 1 else ():
        run = tested_run(group)
        try:
            if run is None or run.checkpoint is None:
                raise UserError("it has no checkpoint of a finished run.")
            trained = TrainedNetwork(run.checkpoint, content=run.content)
            predictions[group.name] = predict_split(trained, trained.data(flags), "test")
            run.metrics.setdefault(ACCURACY, predictions[group.name].accuracy)
        except UserError as error:
            notes.append(f"{group.name} is not tested on the same images as the others: {error}")
        if not predictions:
            break  # nothing to compare the other groups with
    return predictions, notes


def different_splits(reference: Group, group: Group, metric: str = ACCURACY) -> list[str]:
    """Return a note if settings differ that decide which images a metric is measured on."""
    keys = SPLIT_SETTINGS if metric.startswith("test/") else (*SPLIT_SETTINGS, "data.val_size")
    first, second = reference.settings, group.settings
    differences = [
        f"{key} is {first.get(key, MISSING)} in {reference.name} and {second.get(key, MISSING)} in {group.name}"
        for key in keys
        if first.get(key, NULL) != second.get(key, NULL)
    ]
    note = f"{reference.name} and {group.name} may not have been tested on the same images: {'; '.join(differences)}."
    return [note] if differences else []


def changed_images(reference: Group, group: Group) -> list[str]:
    """Return a note if the images of the groups' common data set changed between their runs."""
    fingerprints = {str(run.data_fingerprint) for member in (reference, group) for run in member.measured_runs}
    current = [fingerprint for fingerprint in fingerprints if fingerprint.startswith(FINGERPRINT)]
    if len(current) < 2 or any(
        reference.settings.get(key) != group.settings.get(key) for key in ("data", "data.folder")
    ):
        return []
    return [
        f"The images of the data changed between the runs of {reference.name} and {group.name}: their metrics are of "
        "different images."
    ]


def compare_pair(
    reference: Group, group: Group, metric: str, predictions: Mapping[str, Predictions]
) -> tuple[Verdict | None, Verdict | None, list[str]]:
    """Return the verdicts on the same images and over runs, as far as possible, and notes that say why not."""
    on_images, notes = None, changed_images(reference, group)
    if metric.startswith("test/") and {reference.name, group.name} <= predictions.keys():
        try:
            on_images = on_the_same_images(reference, group, predictions)
        except UserError as error:
            return None, None, [f"{group.name} is not compared with {reference.name}: {error}"]
    else:
        notes += different_splits(reference, group, metric)
    return on_images, None if notes else over_runs(reference, group, metric), notes


def compare_groups(groups: Sequence[Group], predictions: Mapping[str, Predictions]) -> tuple[list[str], list[str]]:
    """Compare the accuracy of each group with the first group's; return the findings and notes, as messages."""
    on_images, over, notes = list[Verdict](), list[Verdict](), list[str]()
    reference = groups[0]
    for group in groups[1:]:
        image_verdict, run_verdict, group_notes = compare_pair(reference, group, ACCURACY, predictions)
        on_images += [image_verdict] if image_verdict else []
        over += [run_verdict] if run_verdict else []
        if reference.folds and not run_verdict and not group_notes:
            group_notes = [
                f"{group.name} is not compared with {reference.name}: fewer than two folds of both were tested; train "
                "the others with fit --folds."
            ]
        notes += group_notes
    single = [group.name for group in groups if not group.folds and len(group.values(ACCURACY)) == 1]
    if len(groups) > 1 and single and (len(single) < len(groups) or len(predictions) < len(groups)):
        notes.append(
            f"Nothing can be concluded over seeds about {some_of(single)}: only one run of each was tested; "
            "train several with fit --seeds."
        )
    return [verdict.message(len(verdicts)) for verdicts in (on_images, over) for verdict in verdicts], notes


def mark_best(comparison: Comparison, predictions: Mapping[str, Predictions]) -> Comparison:
    """Mark the best groups of all metrics except costs, training metrics and metrics of unknown direction.

    Means are compared over seeds or folds, and single networks on the same test images. P-values are adjusted for the
    number of comparisons with the best, so that the truly best group is bold with a probability of at least 95 %
    (J. Hsu, "Constrained simultaneous confidence intervals for multiple comparisons with the best", 1984).
    """
    bold: dict[str, dict[str, bool]] = {}
    tests: set[str] = set()
    for metric in comparison.metrics:
        mode = comparison.groups[0].direction(metric)
        if metric in COSTS or metric.startswith("train/") or not mode:
            continue
        means = {group.name: mean.value for group in comparison.groups if (mean := group.mean(metric))}
        groups = [group for group in comparison.groups if math.isfinite(means.get(group.name, math.nan))]
        sign = 1 if mode == "max" else -1
        best = max(groups, key=lambda group: sign * means[group.name], default=None)
        for group in groups:
            if best and group is not best and (verdict := _verdict(metric, best, group, predictions)):
                tests.add(f"{verdict.test} over {verdict.over}")
                difference = verdict.difference(len(groups) - 1)
                is_worse = difference.p < LEVEL and sign * difference.value < 0
                bold.setdefault(metric, {best.name: True})[group.name] = not is_worse
    caption = (
        f"Bold: the best, and what is not significantly worse at the {LEVEL:.0%} level (Bonferroni) by "
        f"{', '.join(sorted(tests))}. What cannot be tested is not bold."
    )
    return replace(comparison, bold=bold, bold_caption=caption if tests else "")


def _verdict(metric: str, best: Group, group: Group, predictions: Mapping[str, Predictions]) -> Verdict | None:
    """Return the test of a group against the best group, or None if they cannot be compared in this metric."""
    on_images, over, notes = compare_pair(best, group, metric, predictions)
    if notes or by_fold(best.values_with_folds(metric)).keys() != by_fold(group.values_with_folds(metric)).keys():
        return None
    if over and not math.isnan(over.difference(1).p):
        return over
    is_multi_label = best.name in predictions and predictions[best.name].is_multi_label
    return on_images if metric == ("test/exact_match" if is_multi_label else ACCURACY) else None
