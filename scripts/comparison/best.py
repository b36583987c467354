"""Mark the best group of each metric, and the groups that are not significantly worse."""

import math
from collections.abc import Mapping
from dataclasses import replace

from scripts.comparison.comparison import Comparison
from scripts.comparison.groups import Group
from scripts.comparison.paired import ACCURACY, Verdict, compare_pair
from scripts.comparison.runs import COSTS
from scripts.inference.predictions import Predictions
from scripts.uncertainty.mean import by_fold
from scripts.uncertainty.significance import LEVEL


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
