"""Measure calibration, whether the probability of predictions matches their accuracy, and improve it.

Shapes: `N` images, `K` classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 15  # number of equal bins of [0, 1], as in the paper of Guo et al.
TEMPERATURES = 0.01, 100.0  # the range that is searched for the best temperature


@dataclass(frozen=True)
class Reliability:
    """Probability and accuracy of the predictions in each bin, without empty bins, and the loss."""

    low: list[float]  # the lower end of each bin, in [0, 1)
    images: list[int]  # the number of images in each bin
    probability: list[float]  # the mean probability of the predicted class in each bin
    accuracy: list[float]  # the accuracy in each bin
    loss: float  # the cross-entropy of all images, in nats

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean of |probability - accuracy| over the bins, weighted by images."""
        weights = np.array(self.images) / sum(self.images)
        return float(np.abs(np.subtract(self.probability, self.accuracy)) @ weights)


def reliability(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> Reliability:
    """Divide logits `[N, K]` by a temperature, and sort the predictions into bins by their probability.

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
    return Reliability(
        low=(used / BINS).tolist(),
        images=images[used].tolist(),
        probability=probability.tolist(),
        accuracy=accuracy.tolist(),
        loss=cross_entropy(logits, labels, temperature),
    )


def cross_entropy(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> float:
    """Return the mean cross-entropy, in nats, of logits `[N, K]` that are divided by the temperature."""
    logarithms = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-logarithms[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
    """Return the temperature with the lowest cross-entropy; fit it on images that were not trained on.

    Scaling by the temperature changes no prediction (Guo et al., 2017). Returns None if all predictions are correct,
    because then the cross-entropy has no minimum.

    Example:
        >>> random = np.random.default_rng(0)
        >>> probabilities = random.dirichlet(np.ones(4), 20_000)
        >>> labels = (probabilities.cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
        >>> round(fit_temperature(3 * np.log(probabilities), labels), 1)  # logits that are three times too large
        3.0
    """
    if (logits.argmax(axis=1) == labels).all():
        return None

    def loss(logarithm: float) -> float:
        return cross_entropy(logits, labels, float(np.exp(logarithm)))

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))
