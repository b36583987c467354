"""A figure's mean over seeds, and the rule by which all tables write its uncertainty."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import sem, t

from scripts.uncertainty.intervals import CONFIDENCE, Interval
from scripts.uncertainty.significance import varies

INTERVAL = f"{CONFIDENCE:.0%} t-interval"


class Mean(NamedTuple):
    """A mean over seeds, with its 95 % t-interval if the seeds gave different figures."""

    value: float
    interval: Interval | None
    seeds: int

    def shown(self, scale: int = 1) -> str:
        """The mean, and half its interval if it has one; with a scale of 100 in percent."""
        digits = 4 if scale == 1 else 2
        half = f" ± {scale * (self.interval.high - self.value):.{digits}f}" if self.interval else ""
        return f"{scale * self.value:.{digits}f}{half}"


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """The mean of a figure that each seed gave, its interval by "Student", "The Probable Error of a Mean", 1908.

    Example:
        >>> mean_over_seeds([0.97, 0.98, 0.99]).shown(), mean_over_seeds([0.98]).shown(100)
        ('0.9800 ± 0.0248', '98.00')
    """
    value, seeds = float(np.mean(values)), len(values)
    half = float(t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * sem(values)) if varies(values) else None
    return Mean(value, None if half is None else Interval(value - half, value + half), seeds)


def caption(means: Sequence[Mean]) -> str:
    """Say in a sentence what the means of a table are, and what stands after ±."""
    fewest, most = (end((mean.seeds for mean in means), default=0) for end in (min, max))
    if most < 2:
        return "Figures of one seed, which gives no interval." if most else ""
    lacking = "" if all(mean.interval for mean in means) else ", where seeds gave different figures"
    return f"Mean over {f'{fewest} to ' if fewest < most else ''}{most} seeds ± half of its {INTERVAL}{lacking}."
