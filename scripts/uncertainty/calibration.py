"""Calibration: does a network's confidence match its accuracy?

Shapes: `N` images, `K` classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 15  # equal parts of [0, 1] into which probabilities are sorted, as in the paper
TEMPERATURES = 0.01, 100.0  # the best temperature is searched between these


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy of each bin that holds an image."""

    low: list[float]  # the bins' lower ends, in [0, 1)
    images: list[int]  # how many are in each bin
    probability: list[float]  # their mean probability of the predicted class
    accuracy: list[float]  # the share of them that is predicted correctly
    loss: float  # the cross-entropy of all images, in nats

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean distance of probability and accuracy, weighted by images."""
        weights = np.array(self.images) / sum(self.images)
        return float(np.abs(np.subtract(self.probability, self.accuracy)) @ weights)


def reliability(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> Reliability:
    """Sort predictions into bins by their probability, of logits `[N, K]` that are divided by the temperature.

    Source: C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On Calibration of Modern Neural Networks", 2017.

    Example:
        >>> logits = np.log([[0.9, 0.1], [0.9, 0.1]])
        >>> bins = reliability(logits, np.array([0, 1]))
        >>> bins.images, bins.accuracy, round(bins.ece, 3)
        ([2], [0.5], 0.4)
    """
    probabilities = softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    highest = probabilities.max(axis=1)
    bins = np.clip(np.ceil(highest * BINS).astype(int) - 1, 0, BINS - 1)
    images = np.bincount(bins, minlength=BINS)
    used = np.flatnonzero(images)
    probability = np.bincount(bins, highest, BINS)[used] / images[used]
    accuracy = np.bincount(bins, probabilities.argmax(axis=1) == labels, BINS)[used] / images[used]
    parts = (used / BINS).tolist(), images[used].tolist(), probability.tolist(), accuracy.tolist()
    return Reliability(*parts, cross_entropy(logits, labels, temperature))


def cross_entropy(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> float:
    """The mean negative logarithm of the label's probability, in nats, of logits divided by the temperature."""
    logarithms = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-logarithms[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
    """The temperature within `TEMPERATURES` with the lowest cross-entropy of images that were not trained on.

    It changes no prediction (Guo et al., 2017). None if every prediction is correct, since no temperature is best then.

    Example:
        >>> random = np.random.default_rng(0)
        >>> probabilities = random.dirichlet(np.ones(4), 20_000)
        >>> labels = (probabilities.cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
        >>> round(fit_temperature(3 * np.log(probabilities), labels), 1)  # three times too confident
        3.0
    """
    if (logits.argmax(axis=1) == labels).all():
        return None

    def loss(logarithm: float) -> float:
        return cross_entropy(logits, labels, float(np.exp(logarithm)))

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))
