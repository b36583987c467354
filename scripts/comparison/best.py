"""Which groups have the best of a figure, or what is not significantly worse: the bold cells of a table."""

import math
from collections.abc import Mapping
from dataclasses import replace

from core.user_error import UserError
from scripts.comparison.comparison import Comparison, Group, differing_files, differing_settings
from scripts.comparison.paired import ACCURACY, EXACT_MATCH, Verdict, on_the_same_images, over_runs
from scripts.comparison.runs import COSTS
from scripts.inference.predictions import Predictions
from scripts.uncertainty.significance import LEVEL

# The tests in the order in which they are told.
NAMES = {
    "folds": "the corrected resampled t-test over folds",
    "seeds": "Welch's t-test over seeds",
    "": "McNemar's test on the same images",
}


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
                tests.add(verdict.over)
                difference = verdict.difference(len(groups) - 1)
                worse = difference.p < LEVEL and (difference.value < 0) == (mode == "max")
                standing.setdefault(figure, {best.name: True})[group.name] = not worse
    named = " and, without several seeds, ".join(test for over, test in NAMES.items() if over in tests)
    bold = "Nothing is bold, since nothing can be tested." if len(comparison.groups) > 1 else ""
    if tests:
        bold = f"Bold: the best, and what is not significantly worse at the {LEVEL:.0%} level by {named} (Bonferroni)."
        bold += " What cannot be tested is not bold."
    return replace(comparison, standing=standing, bold=bold)


def _verdict(figure: str, best: Group, group: Group, predictions: Mapping[str, Predictions]) -> Verdict | None:
    pair = [predictions[name] for name in (best.name, group.name) if name in predictions and figure.startswith("test/")]
    try:
        on_images = on_the_same_images(best, group, *pair) if len(pair) == 2 else None
    except UserError:
        return None
    if best.of_folds(figure).keys() != group.of_folds(figure).keys():
        return None
    if differing_files(best, group) or (not on_images and differing_settings(best, group, figure)):
        return None
    over_seeds = over_runs(best, group, figure)
    if over_seeds and not math.isnan(over_seeds.difference(1).p):
        return over_seeds
    is_tested = figure == (EXACT_MATCH if pair and pair[0].is_multi_label else ACCURACY)
    return on_images if is_tested else None
