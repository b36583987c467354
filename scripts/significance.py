"""Whether one figure is better than another, or only luckier.

Shapes: `N` images.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, sem, t, ttest_ind

from scripts.intervals import CONFIDENCE, Interval

DRAWS = 10_000
"""Resamplings that the interval of a difference is taken from."""


class Difference(NamedTuple):
    """How much greater the second of two figures is than the first."""

    value: float
    interval: Interval
    p: float
    """Probability of a difference at least as great if there were none."""


def t_interval(values: Sequence[float]) -> Interval:
    """The interval of the mean of what repetitions gave, by Student's t.

    Source: "Student", "The Probable Error of a Mean", 1908.

    Args:
        values: The figures, two or more.

    Raises:
        ValueError: If there are fewer.

    Example:
        >>> [round(end, 3) for end in t_interval([0.97, 0.98, 0.99])]
        [0.955, 1.005]
    """
    if len(values) < 2:
        raise ValueError(f"an interval over repetitions needs two or more figures, not {len(values)}")
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * sem(values))
    middle = float(np.mean(values))
    return Interval(middle - half, middle + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """How probable it is that two classifiers of the same quality disagree so unevenly.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    1947; exact, by the binomial distribution, however many images there are.

    Args:
        only_first: Images that the first has right and the second wrong.
        only_second: The other way round.

    Returns:
        The two-sided p-value; 1 if they never disagree.

    Example:
        >>> round(mcnemar(1, 7), 4)  # Fagerland et al., "The McNemar test for binary matched-pairs data", 2013, table 1
        0.0703
    """
    disagree = only_first + only_second
    return float(binomtest(only_first, disagree).pvalue) if disagree else 1.0


def difference_on_the_same_images(first: NDArray[np.bool_], second: NDArray[np.bool_], seed: int = 0) -> Difference:
    """How much more accurate the second of two classifiers is, for images like these.

    The interval is a paired bootstrap: images are drawn with replacement, as many as there are, and with each both
    answers (Efron, 1979; percentile interval). As only the images count on which they disagree, that is one multinomial
    draw, which takes no longer for a million images. The p-value is McNemar's.

    Args:
        first: Which images the first has right, bool `[N]`.
        second: The second, on the same images.
        seed: Of the draws.

    Raises:
        ValueError: If there is no image, or not as many in both.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"answers to the same images are wanted, not to {len(first)} and {len(second)}")
    images = len(first)
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    shares = np.array([lost, won, images - lost - won]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=DRAWS)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / images, (tail, 1 - tail))
    return Difference((won - lost) / images, Interval(float(low), float(high)), mcnemar(lost, won))


def difference_over_runs(first: Sequence[float], second: Sequence[float]) -> Difference:
    """How much greater the mean over the second's runs is, for seeds like these.

    Source: B. L. Welch, "The generalization of 'Student's' problem when several different population variances are
    involved", 1947.

    Args:
        first: The figures of the first's runs, two or more.
        second: Those of the second's.

    Raises:
        ValueError: If there are fewer.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"two or more runs of each are wanted, not {len(first)} and {len(second)}")
    value = float(np.mean(second) - np.mean(first))
    if np.ptp(first) == np.ptp(second) == 0:
        return Difference(value, Interval(value, value), 0.0 if value else 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that the figures of one of them are all the same
        found = ttest_ind(second, first, equal_var=False)
    low, high = found.confidence_interval(CONFIDENCE)
    return Difference(value, Interval(float(low), float(high)), float(found.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of which none is below 0.05 by luck more often than once in twenty times, however many they are.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Args:
        p_values: Of tests that were made together.

    Returns:
        The adjusted values, in the same order.

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
