"""A figure's mean over seeds or folds, and the rule by which all tables write its uncertainty."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import sem, t

from scripts.uncertainty.intervals import CONFIDENCE, Interval
from scripts.uncertainty.significance import error_over_folds, varies

INTERVAL = f"{CONFIDENCE:.0%} t-interval"

# What a table's caption adds to the interval of a mean over seeds, or over folds.
RULES = {"seed": "", "fold": ", corrected for the training images that folds share (Nadeau and Bengio, 2003)"}


class Mean(NamedTuple):
    """A mean over seeds or folds, with its 95 % t-interval if these gave different figures."""

    value: float
    interval: Interval | None
    number: int  # of seeds or folds
    over: str = "seed"  # or "fold"

    def shown(self, scale: int = 1) -> str:
        """The mean, and half its interval if it has one; with a scale of 100 in percent."""
        digits = 4 if scale == 1 else 2
        half = f" ± {scale * (self.interval.high - self.value):.{digits}f}" if self.interval else ""
        return f"{scale * self.value:.{digits}f}{half}"


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """The mean of a figure that each seed gave, with its interval (Student, "The Probable Error of a Mean", 1908).

    Example:
        >>> mean_over_seeds([0.97, 0.98, 0.99]).shown(), mean_over_seeds([0.98]).shown(100)
        ('0.9800 ± 0.0248', '98.00')
    """
    return mean_of_runs([(None, value) for value in values], None)


def mean_of_runs(values: Sequence[tuple[int | None, float]], folds: int | None) -> Mean:
    """The mean of a figure of runs, each with its fold: over seeds, or over `folds` folds by `error_over_folds`.

    Example:
        >>> mean_of_runs([(0, 0.96), (1, 0.97), (2, 0.98), (3, 0.97), (4, 0.97)], 5).shown()
        '0.9700 ± 0.0132'
    """
    of_folds = [*by_fold(values).values()]
    each = of_folds or [value for _, value in values]
    value, count, interval = float(np.mean(each)), len(each), None
    if varies(each):
        error = error_over_folds(each, folds or count) if of_folds else sem(each)
        interval = Interval(*map(float, t.interval(CONFIDENCE, count - 1, value, error)))
    return Mean(value, interval, count, "fold" if of_folds else "seed")


def by_fold(values: Sequence[tuple[int | None, float]]) -> dict[int, float]:
    """The figure of each fold: its mean over the seeds, which share the fold's images."""
    folds = {fold for fold, _ in values if fold is not None}
    return {fold: float(np.mean([value for other, value in values if other == fold])) for fold in sorted(folds)}


def caption(means: Sequence[Mean]) -> str:
    """Say in a sentence what the means of a table are, and what stands after ±; in two, if some are over folds."""
    sentences = []
    for over, rule in RULES.items():
        some = [mean for mean in means if mean.over == over]
        fewest, most = (end((mean.number for mean in some), default=0) for end in (min, max))
        lacking = "" if all(mean.interval for mean in some) else f", where {over}s gave different figures"
        numbers = f"{fewest} to {most}" if fewest < most else most
        if most > 1:
            sentences.append(f"Mean over {numbers} {over}s ± half of its {INTERVAL}{rule}{lacking}.")
        elif most:
            sentences.append(f"Figures of one {over}, which gives no interval.")
    return " ".join(sentences)
