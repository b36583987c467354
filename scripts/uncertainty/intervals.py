"""Confidence intervals of accuracy, precision, recall and F1.

Shapes: `K` classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

CONFIDENCE = 0.95  # the fraction of repeated experiments whose interval contains the true value


class Interval(NamedTuple):
    """The ends of a confidence interval; NaN if nothing was measured."""

    low: float
    high: float


def wilson(correct: ArrayLike, total: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Return Wilson's confidence interval of the fraction `correct / total`, for numbers or arrays; NaN if total is 0.

    It stays within [0, 1], also for few images and for fractions near 0 or 1.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927; without
    continuity correction.

    Example:
        >>> [round(end, 4) for end in wilson(81, 263)]  # Newcombe, "Two-sided confidence intervals", 1998
        [0.2553, 0.3662]
    """
    correct, total = np.asarray(correct), np.asarray(total)
    z = norm.ppf((1 + confidence) / 2)
    middle = correct + z**2 / 2
    half = z * np.sqrt(correct * (total - correct) / np.maximum(total, 1) + z**2 / 4)
    ends = np.stack([middle - half, middle + half]) / (total + z**2)
    ends[0, correct == 0], ends[1, correct == total] = 0, 1  # without rounding errors
    ends[:, total == 0] = np.nan
    return Interval(*ends.tolist())


def class_metrics(
    correct: NDArray[np.int64], predicted: NDArray[np.int64], labelled: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return precision, recall and F1 of each class with Wilson's intervals, from numbers of images, int64 `[K]` each.

    The result is float64 `[3, 3, K]`: value, lower end and upper end, each of precision, recall and F1; NaN where the
    denominator is 0. F1 follows from the Jaccard index J, the fraction of correct images among those that have the
    class as label or as prediction: F1 = 2J / (1 + J).

    Example:
        >>> class_metrics(np.array([90, 80]), np.array([110, 90]), np.array([100, 100]))[:, 1].round(2)  # recall
        array([[0.9 , 0.8 ],
               [0.83, 0.71],
               [0.94, 0.87]])
    """
    totals = np.stack([predicted, labelled, predicted + labelled - correct])
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        metrics = np.stack([correct / totals, *wilson(np.broadcast_to(correct, totals.shape), totals)])
    metrics[:, 2] = 2 * metrics[:, 2] / (1 + metrics[:, 2])
    return metrics
