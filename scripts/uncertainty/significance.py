"""Significance tests: is one classifier better than another, or is the difference due to chance?

Shapes: `N` images.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, t, ttest_ind

from scripts.uncertainty.intervals import CONFIDENCE, Interval, wilson

LEVEL = 1 - CONFIDENCE  # a difference is significant if its p-value is below this
ROUNDING = 1e-6  # values that differ by less count as equal, because metrics are computed in float32


class Difference(NamedTuple):
    """The difference between two metrics, second minus first, with its confidence interval and p-value.

    P-value and interval are adjusted for the number of `tests` that are made together (Bonferroni; O. J. Dunn,
    "Multiple Comparisons Among Means", 1961). If nothing differs, the probability that any of the p-values is below
    0.05 is at most 5 %; the probability that all intervals contain their true values is at least 95 %. An interval
    excludes 0 exactly if its p-value is below 0.05. The smaller p-values of S. Holm (1979) have no such intervals (K.
    Strassburger and F. Bretz, "Compatible simultaneous lower confidence bounds for the Holm procedure", 2008).
    """

    value: float
    interval: Interval  # NaN, as is `p`, if the values are all equal, so that their spread is unknown
    p: float  # the probability of at least this difference if there were none, times the number of tests


def varies(values: Sequence[float]) -> bool:
    """Return True if the values differ by more than rounding; equal values say nothing about their spread."""
    return float(np.ptp(values)) > ROUNDING


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test, from the numbers of images that only one classifier gets right.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    1947; with the binomial distribution, which is exact for any number of images.

    Example:
        >>> round(mcnemar(1, 7), 4)  # Fagerland et al., "The McNemar test for binary matched-pairs data", 2013, table 1
        0.0703
    """
    disagree = only_first + only_second
    return float(binomtest(only_first, disagree).pvalue) if disagree else 1.0


def paired_interval(lost: int, won: int, images: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the confidence interval of the difference in accuracy between two classifiers, second minus first.

    The difference is the product of two independent quantities: the fraction of images on which exactly one classifier
    is right, with Wilson's interval, and the balance between the two, with the exact interval of C. Clopper and E.
    Pearson (1934). Their variances are recovered from the ends of these intervals (MOVER; R. Newcombe, "MOVER-R
    confidence intervals for ratios and products of two independently estimated quantities", 2016). So the interval
    excludes 0 exactly if McNemar's exact p-value is below `1 - confidence`. Of all `images`, only the first classifier
    is right on `lost`, and only the second on `won`.

    Example:
        >>> [round(end, 3) for end in paired_interval(20, 45, 1000)]
        [0.008, 0.041]
    """
    rate, rates = (lost + won) / images, wilson(lost + won, images, confidence)
    if not rate:
        return Interval(-rates.high, rates.high)
    fractions = binomtest(won, lost + won).proportion_ci(confidence, method="exact")

    def lower_end(balance: float, low: float) -> float:
        if low > 0:  # both quantities are positive, and so is their product
            ends = low * (2 * balance - low) * rates.low * (2 * rate - rates.low)
            return ends / (balance * rate + math.sqrt((balance * rate) ** 2 - ends))
        rate_error = rate - rates.low if balance > 0 else rates.high - rate
        return max(-1.0, balance * rate - math.hypot(balance * rate_error, rate * (balance - low)))

    balance = (won - lost) / (won + lost)
    return Interval(lower_end(balance, 2 * fractions.low - 1), -lower_end(-balance, 1 - 2 * fractions.high))


def difference_on_the_same_images(first: NDArray[np.bool_], second: NDArray[np.bool_], tests: int = 1) -> Difference:
    """Compare the accuracies of two classifiers by McNemar's exact test; bool `[N]`, True for each correct image."""
    images = len(first)
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    interval = paired_interval(lost, won, images, 1 - LEVEL / tests)
    return Difference((won - lost) / images, interval, min(1.0, tests * mcnemar(lost, won)))


def difference_over_runs(first: Sequence[float], second: Sequence[float], tests: int = 1) -> Difference:
    """Compare the means over runs with different seeds by Welch's t-test; each side needs two or more values.

    Source: B. L. Welch, "The generalization of 'Student's' problem when several different population variances are
    involved", 1947.
    """
    value = float(np.mean(second) - np.mean(first))
    if not (varies(first) and varies(second)):
        return Difference(value, Interval(math.nan, math.nan), math.nan)
    test = ttest_ind(second, first, equal_var=False)
    interval = Interval(*map(float, test.confidence_interval(1 - LEVEL / tests)))
    return Difference(value, interval, min(1.0, tests * float(test.pvalue)))


def error_over_folds(values: Sequence[float], folds: int) -> float:
    """Return the standard error of the mean over folds, from two or more values, one for each measured fold.

    Folds share most of their training images, which makes the usual standard error too small. This one takes the
    fraction of images in a fold as the correlation between values: the variance of a mean of J values is
    (1 / J + n_test / n_train) S².

    Source: C. Nadeau and Y. Bengio, "Inference for the Generalization Error", 2003.
    """
    return math.sqrt((1 / len(values) + 1 / (folds - 1)) * float(np.var(values, ddof=1)))


def difference_over_folds(first: Sequence[float], second: Sequence[float], folds: int, tests: int = 1) -> Difference:
    """Compare the means over two or more common folds by the corrected resampled t-test (`error_over_folds`).

    With several seeds, each value is the mean over the seeds of a fold. The usual paired t-test reports differences
    that do not exist up to five times as often as its level says. McNemar's test on all images would be about these
    networks, not about other training images (T. Dietterich, "Approximate statistical tests for comparing supervised
    classification learning algorithms", 1998).
    """
    differences = np.subtract(second, first).tolist()
    value, degrees = float(np.mean(differences)), len(differences) - 1
    if not varies(differences):
        return Difference(value, Interval(math.nan, math.nan), math.nan)
    error = error_over_folds(differences, folds)
    interval = Interval(*map(float, t.interval(1 - LEVEL / tests, degrees, value, error)))
    return Difference(value, interval, min(1.0, tests * 2 * float(t.sf(abs(value) / error, degrees))))
