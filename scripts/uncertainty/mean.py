"""Average a metric over seeds or folds, and format the mean with its confidence interval for all tables."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import sem, t

from scripts.uncertainty.intervals import CONFIDENCE, Interval
from scripts.uncertainty.significance import error_over_folds, varies

INTERVAL = f"{CONFIDENCE:.0%} t-interval"

# What captions add about the interval of a mean over seeds, and over folds.
RULES = {"seed": "", "fold": ", corrected for the training images that folds share (Nadeau and Bengio, 2003)"}


class Mean(NamedTuple):
    """A mean over seeds or folds, with its confidence interval."""

    value: float
    interval: Interval | None  # None for a single value or equal values
    number: int  # of seeds or folds
    over: str = "seed"  # or "fold"

    def shown(self, scale: int = 1) -> str:
        """Return, for example, `0.9800 ± 0.0248`: the mean and half the interval; a scale of 100 gives percent."""
        digits = 4 if scale == 1 else 2
        half = f" ± {scale * (self.interval.high - self.value):.{digits}f}" if self.interval else ""
        return f"{scale * self.value:.{digits}f}{half}"


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """Return the mean of one value per seed, with its t-interval (Student, "The Probable Error of a Mean", 1908).

    Example:
        >>> mean_over_seeds([0.97, 0.98, 0.99]).shown(), mean_over_seeds([0.98]).shown(100)
        ('0.9800 ± 0.0248', '98.00')
    """
    return mean_of_runs([(None, value) for value in values], None)


def mean_of_runs(values: Sequence[tuple[int | None, float]], folds: int | None) -> Mean:
    """Return the mean over seeds, or over folds if the runs have folds; `values` are the fold and value of each run.

    The images are divided into `folds` folds, by default those in `values`.

    Example:
        >>> mean_of_runs([(0, 0.96), (1, 0.97), (2, 0.98), (3, 0.97), (4, 0.97)], 5).shown()
        '0.9700 ± 0.0132'
    """
    fold_means = list(by_fold(values).values())
    samples = fold_means or [value for _, value in values]
    mean, count, interval = float(np.mean(samples)), len(samples), None
    if varies(samples):
        error = error_over_folds(samples, folds or count) if fold_means else sem(samples)
        interval = Interval(*map(float, t.interval(CONFIDENCE, count - 1, mean, error)))
    return Mean(mean, interval, count, "fold" if fold_means else "seed")


def by_fold(values: Sequence[tuple[int | None, float]]) -> dict[int, float]:
    """Return the mean over the seeds of each fold."""
    seeds: dict[int, list[float]] = {}
    for fold, value in values:
        if fold is not None:
            seeds.setdefault(fold, []).append(value)
    return {fold: float(np.mean(seeds[fold])) for fold in sorted(seeds)}


def caption(means: Sequence[Mean]) -> str:
    """Return the caption of a table: what its means are over, and what stands after ±."""
    sentences = []
    for over, rule in RULES.items():
        numbers = [mean.number for mean in means if mean.over == over]
        if not numbers:
            continue
        lowest, highest = min(numbers), max(numbers)
        if highest == 1:
            sentences.append(f"Metrics of one {over}, which gives no interval.")
            continue
        number = f"{lowest} to {highest}" if lowest < highest else highest
        has_all = all(mean.interval for mean in means if mean.over == over)
        condition = "" if has_all else f", where {over}s gave different values"
        sentences.append(f"Mean over {number} {over}s ± half of its {INTERVAL}{rule}{condition}.")
    return " ".join(sentences)
