"""Significance tests: is one classifier better than another, or only luckier?

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
ROUNDING = 1e-6  # equal figures may differ by as much: they were computed in float32


class Difference(NamedTuple):
    """How much greater the second of two figures is than the first.

    P-values and intervals are adjusted for the number of `tests` that are made together (Bonferroni; O. J. Dunn,
    "Multiple Comparisons Among Means", 1961): where there is no difference, any p-value is below 0.05 in at most 5 % of
    repetitions, and all intervals contain their true values in at least 95 %. An interval excludes 0 exactly when its
    p-value is below 0.05; the smaller p-values of S. Holm (1979) have no such intervals (K. Strassburger and F. Bretz,
    "Compatible simultaneous lower confidence bounds for the Holm procedure", 2008).
    """

    value: float
    interval: Interval  # NaN, as is p, if figures that are all the same hide their spread
    p: float  # the probability of a difference at least as great if there were none, times the number of comparisons


def varies(values: Sequence[float]) -> bool:
    """True if repetitions gave different figures; otherwise their spread is unknown."""
    return float(np.ptp(values)) > ROUNDING


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of McNemar's exact test, of the images that only one of two classifiers predicts correctly.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    1947; exact, by the binomial distribution, for any number of images.

    Example:
        >>> round(mcnemar(1, 7), 4)  # Fagerland et al., "The McNemar test for binary matched-pairs data", 2013, table 1
        0.0703
    """
    disagree = only_first + only_second
    return float(binomtest(only_first, disagree).pvalue) if disagree else 1.0


def paired_interval(lost: int, won: int, images: int, confidence: float = CONFIDENCE) -> Interval:
    """How much more accurate the second of two classifiers is, of the images that only the first or second gets right.

    The difference is a product of two independent figures: the share of images that only one classifier predicts
    correctly, with Wilson's interval, and how unevenly they are divided, with the exact interval of C. Clopper and E.
    Pearson (1934). Their variances are recovered from their limits (MOVER; R. Newcombe, "MOVER-R confidence intervals
    for ratios and products of two independently estimated quantities", 2016). So the interval excludes 0 exactly when
    McNemar's exact p-value is below `1 - confidence`.

    Example:
        >>> [round(end, 3) for end in paired_interval(20, 45, 1000)]
        [0.008, 0.041]
    """
    rate, rates = (lost + won) / images, wilson(lost + won, images, confidence)
    if not rate:
        return Interval(-rates.high, rates.high)
    shares = binomtest(won, lost + won).proportion_ci(confidence, method="exact")

    def lower(balance: float, low: float) -> float:
        if low > 0:  # both limits are above 0, and so is the product's
            limits = low * (2 * balance - low) * rates.low * (2 * rate - rates.low)
            return limits / (balance * rate + math.sqrt((balance * rate) ** 2 - limits))
        off = rate - rates.low if balance > 0 else rates.high - rate
        return max(-1.0, balance * rate - math.hypot(balance * off, rate * (balance - low)))

    balance = (won - lost) / (won + lost)
    return Interval(lower(balance, 2 * shares.low - 1), -lower(-balance, 1 - 2 * shares.high))


def difference_on_the_same_images(first: NDArray[np.bool_], second: NDArray[np.bool_], tests: int = 1) -> Difference:
    """How much more accurate the second classifier is, by McNemar's exact test; bool `[N]`, right or wrong."""
    images = len(first)
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    interval = paired_interval(lost, won, images, 1 - LEVEL / tests)
    return Difference((won - lost) / images, interval, min(1.0, tests * mcnemar(lost, won)))


def difference_over_runs(first: Sequence[float], second: Sequence[float], tests: int = 1) -> Difference:
    """How much greater the mean over the second's runs is, by Welch's t-test of two or more runs of each.

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
    """The standard error of a mean over folds: of two or more figures, one for each of `folds` or some of them.

    Folds share most of their training images, so that the usual error is too small. This one takes the correlation of
    their figures to be the share of images in a fold: the variance is (1 / J + n_test / n_train) S², of J figures.

    Source: C. Nadeau and Y. Bengio, "Inference for the Generalization Error", 2003.
    """
    return math.sqrt((1 / len(values) + 1 / (folds - 1)) * float(np.var(values, ddof=1)))


def difference_over_folds(first: Sequence[float], second: Sequence[float], folds: int, tests: int = 1) -> Difference:
    """How much greater the mean over the second's folds is, by the corrected resampled t-test (`error_over_folds`).

    The figures are those of two or more of the same folds of `folds`; with several seeds, means over them. The usual
    paired t-test finds differences that are not there up to five times as often as it says. McNemar's test on all
    images would ask about these networks, not about other training images (T. Dietterich, "Approximate statistical
    tests for comparing supervised classification learning algorithms", 1998).
    """
    each = np.subtract(second, first)
    value, degrees = float(each.mean()), len(each) - 1
    if not varies(each.tolist()):
        return Difference(value, Interval(math.nan, math.nan), math.nan)
    error = error_over_folds(each.tolist(), folds)
    interval = Interval(*map(float, t.interval(1 - LEVEL / tests, degrees, value, error)))
    return Difference(value, interval, min(1.0, tests * 2 * float(t.sf(abs(value) / error, degrees))))
