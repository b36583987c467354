"""Confidence intervals of shares of images.

Shapes: `K` classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

CONFIDENCE = 0.95  # the share of repeated experiments whose interval contains the true value


class Interval(NamedTuple):
    """The two ends; NaN where nothing was measured."""

    low: float
    high: float


def wilson(right: ArrayLike, total: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval of a share, `right` of `total` images, numbers or arrays; NaN where there is no image.

    It stays within [0, 1], also for few images and for shares near 0 or 1.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927; without
    continuity correction.

    Example:
        >>> [round(end, 4) for end in wilson(81, 263)]  # Newcombe, "Two-sided confidence intervals", 1998
        [0.2553, 0.3662]
    """
    right, total = np.asarray(right), np.asarray(total)
    z = norm.ppf((1 + confidence) / 2)
    middle = right + z**2 / 2
    half = z * np.sqrt(right * (total - right) / np.maximum(total, 1) + z**2 / 4)
    ends = np.stack([middle - half, middle + half]) / (total + z**2)
    ends[0, right == 0], ends[1, right == total] = 0, 1  # exactly
    ends[:, total == 0] = np.nan
    return Interval(*ends.tolist())


def class_figures(
    right: NDArray[np.int64], predicted: NDArray[np.int64], there: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Precision, recall and F1 of each class, each followed by the ends of Wilson's interval, float64 `[3, 3, K]`.

    Given are, int64 `[K]`, the images of each class that are predicted as it, all that are predicted as it, and all
    that are of it. F1 is 2J / (1 + J), where J is the share that is right of the images that are either. A figure is
    NaN for a class without the images that it is a share of.

    Example:
        >>> class_figures(np.array([90, 80]), np.array([110, 90]), np.array([100, 100]))[:, 1].round(2)  # recall
        array([[0.9 , 0.8 ],
               [0.83, 0.71],
               [0.94, 0.87]])
    """
    of = np.stack([predicted, there, predicted + there - right])
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        figures = np.stack([right / of, *wilson(np.broadcast_to(right, of.shape), of)])
    figures[:, 2] = 2 * figures[:, 2] / (1 + figures[:, 2])
    return figures
