"""How far off a figure that was measured on some images may be.

Shapes: `K` classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

CONFIDENCE = 0.95  # share of repetitions of an experiment in which an interval holds the true value


class Interval(NamedTuple):
    """The two ends; NaN where there is nothing to measure."""

    low: float
    high: float


def wilson(right: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a share, which stays within [0, 1] and is usable for few images and shares near 0 or 1.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927; without
    continuity correction.

    Args:
        right: Images that count.
        total: All images.
        confidence: Share of repetitions in which the interval holds the true value.

    Returns:
        Low and high end in [0, 1].

    Raises:
        ValueError: If `total` is not positive, or `right` is not between 0 and `total`.

    Example:
        >>> [round(end, 4) for end in wilson(81, 263)]  # Newcombe, "Two-sided confidence intervals", 1998, table I
        [0.2553, 0.3662]
    """
    if not 0 <= right <= total > 0:
        raise ValueError(f"{right} of {total} images is no share")
    return Interval(*_wilson(np.array(right), np.array(total), confidence).tolist())


def _wilson(right: NDArray[np.int64], total: NDArray[np.int64], confidence: float) -> NDArray[np.float64]:
    """Low and high ends `[2, ...]`; NaN where there is no image."""
    z = norm.ppf((1 + confidence) / 2)
    middle = right + z**2 / 2
    half = z * np.sqrt(right * (total - right) / np.maximum(total, 1) + z**2 / 4)
    ends: NDArray[np.float64] = np.stack([middle - half, middle + half]) / (total + z**2)
    ends[0, right == 0], ends[1, right == total] = 0, 1  # exactly
    ends[:, total == 0] = np.nan
    return ends


def class_figures(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Precision, recall and F1 of each class.

    Args:
        confusion: Images by true class and predicted class, int64 `[..., K, K]`.

    Returns:
        float64 `[..., 3, K]`; the precision of a class that was never predicted, and the recall of one that is not
        there, are NaN; F1 is NaN where neither was.

    Example:
        >>> class_figures(np.array([[3, 1], [0, 4]])).round(3)
        array([[1.   , 0.8  ],
               [0.75 , 1.   ],
               [0.857, 0.889]])
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return _figures(right, confusion.sum(axis=-2), confusion.sum(axis=-1))


def _figures(right: NDArray[np.int64], predicted: NDArray[np.int64], there: NDArray[np.int64]) -> NDArray[np.float64]:
    def share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
        shares: NDArray[np.float64] = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
        return shares

    return np.stack([share(right, predicted), share(right, there), share(2 * right, predicted + there)], axis=-2)


def class_intervals(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Wilson's intervals of precision, recall and F1 of each class.

    Precision is a share of the images that were predicted to be of the class, recall one of those that are. F1 is
    2J / (1 + J), where J is the share that is both among the images that are either.

    Args:
        confusion: Images by true class and predicted class, int64 `[K, K]`.

    Returns:
        Low and high ends, float64 `[2, 3, K]`; NaN where the figure is NaN.

    Example:
        >>> class_intervals(np.array([[90, 10], [20, 80]]))[:, 1].round(2)  # recall: low, then high ends
        array([[0.83, 0.71],
               [0.94, 0.87]])
    """
    right, predicted, there = np.diagonal(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    ends = _wilson(np.stack([right] * 3), np.stack([predicted, there, predicted + there - right]), CONFIDENCE)
    ends[:, 2] = 2 * ends[:, 2] / (1 + ends[:, 2])
    return ends
