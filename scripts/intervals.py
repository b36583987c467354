"""How far off a figure that was measured on some images may be.

Shapes: `K` classes, `R` resamplings.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

CONFIDENCE = 0.95
"""Share of repetitions of an experiment in which an interval holds the true value."""

RESAMPLINGS = 1000
"""Draws that a bootstrap interval is taken from."""

CHUNK = 50
"""Resamplings that are drawn at a time, so that 200 classes take tens of megabytes."""


class Interval(NamedTuple):
    """The two ends; NaN where there is nothing to measure."""

    low: float
    high: float


def wilson(right: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a share, which stays within [0, 1] and is usable for few images and shares near 0 or 1.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927; as scipy
    computes it, without continuity correction.

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
    interval = binomtest(right, total).proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))


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


def class_intervals(confusion: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """Bootstrap intervals of precision, recall and F1 of each class.

    Images are drawn with replacement, as many as there are (B. Efron, "Bootstrap Methods: Another Look at the
    Jackknife", 1979; percentile interval). As only their true and predicted class count, that is one multinomial draw
    over the confusion matrix.

    Args:
        confusion: Images by true class and predicted class, int64 `[K, K]`.
        seed: Of the draws.

    Returns:
        Low and high ends, float64 `[2, 3, K]`; NaN where the figure is NaN in every draw.

    Example:
        >>> class_intervals(np.array([[90, 10], [20, 80]]))[:, 1].round(2)  # recall: low, then high ends
        array([[0.84, 0.71],
               [0.95, 0.88]])
    """
    classes, total = len(confusion), int(confusion.sum())
    rows, columns = np.nonzero(confusion)
    counts = confusion[rows, columns]
    hits = np.flatnonzero(rows == columns)
    random = np.random.default_rng(seed)
    drawn = []
    for start in range(0, RESAMPLINGS, CHUNK):
        draws = random.multinomial(total, counts / total, size=min(CHUNK, RESAMPLINGS - start))
        right, predicted, there = (np.zeros((len(draws), classes), np.int64) for _ in range(3))
        for number, draw in enumerate(draws):
            predicted[number] = np.bincount(columns, draw, classes)
            there[number] = np.bincount(rows, draw, classes)
        right[:, rows[hits]] = draws[:, hits]
        drawn.append(_figures(right, predicted, there))
    figures = np.concatenate(drawn)  # [R, 3, K]
    ends: NDArray[np.float64] = np.full((2, 3, classes), np.nan)
    known = ~np.isnan(figures).all(axis=0)
    tail = (1 - CONFIDENCE) / 2
    ends[:, known] = np.nanquantile(figures[:, known], (tail, 1 - tail), axis=0)
    return ends
