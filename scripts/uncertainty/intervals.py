"""Confidence intervals of figures that were measured on a sample of images.

Shapes: `K` classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

CONFIDENCE = 0.95  # the share of repeated experiments whose interval contains the true value


class Interval(NamedTuple):
    """The two ends; NaN where nothing was measured."""

    low: float
    high: float


def wilson(right: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval of a share: it stays within [0, 1], also for few images and for shares near 0 or 1.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927; without
    continuity correction.

    Args:
        right: Correct images.
        total: All images.
        confidence: The share of repeated experiments whose interval contains the true value.

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


def class_figures(
    right: NDArray[np.int64], predicted: NDArray[np.int64], there: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Precision, recall and F1 of each class, each with the ends of Wilson's interval.

    Precision is a share of the images predicted as the class, recall a share of the images of the class. F1 is
    2J / (1 + J), where J is the share of both among the images that are either.

    Args:
        right: Images of each class that are predicted as it, int64 `[K]`.
        predicted: All images that are predicted as it.
        there: All images of it.

    Returns:
        The figure, then its low and high end, float64 `[3, 3, K]`. Precision is NaN for a class that was never
        predicted, recall for a class without images, F1 for a class where both hold.

    Example:
        >>> class_figures(np.array([90, 80]), np.array([110, 90]), np.array([100, 100]))[:, 1].round(2)  # recall
        array([[0.9 , 0.8 ],
               [0.83, 0.71],
               [0.94, 0.87]])
    """
    of = np.stack([predicted, there, predicted + there - right])
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        figures = np.stack([right / of, *_wilson(np.broadcast_to(right, of.shape), of, CONFIDENCE)])
    figures[:, 2] = 2 * figures[:, 2] / (1 + figures[:, 2])
    return figures
