"""Whether a network is right as often as it believes to be.

Shapes: `N` images, `K` classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15  # equal parts of [0, 1] that probabilities are gathered in, as in the paper

TEMPERATURES = 0.01, 100.0  # between which the best temperature is looked for


@dataclass(frozen=True)
class Reliability:
    """What was predicted with a probability in each bin that holds any image.

    Args:
        low: The bins' lower ends, in [0, 1).
        images: Images in each.
        probability: Their mean probability of the class predicted.
        accuracy: Share of them that is right.
        loss: The cross-entropy of all images, in nats.
    """

    low: list[float]
    images: list[int]
    probability: list[float]
    accuracy: list[float]
    loss: float

    @property
    def ece(self) -> float:
        """The expected calibration error: how far probability and accuracy are apart, on average over images."""
        weights = np.array(self.images) / sum(self.images)
        return float(np.abs(np.subtract(self.probability, self.accuracy)) @ weights)


def reliability(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> Reliability:
    """Gather predictions by their probability.

    Source: C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On Calibration of Modern Neural Networks", 2017.

    Args:
        logits: `[N, K]`.
        labels: int64 `[N]`.
        temperature: What logits are divided by.

    Raises:
        ValueError: If there are no images.

    Example:
        >>> logits = np.log([[0.9, 0.1], [0.9, 0.1]])
        >>> found = reliability(logits, np.array([0, 1]))
        >>> found.images, found.accuracy, round(found.ece, 3)
        ([2], [0.5], 0.4)
    """
    if not len(labels):
        raise ValueError("there are no images to gather")
    logarithms = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    predictions = logarithms.argmax(axis=1)
    probabilities = np.exp(logarithms.max(axis=1))
    bins = np.clip(np.ceil(probabilities * BINS).astype(int) - 1, 0, BINS - 1)
    images = np.bincount(bins, minlength=BINS)
    used = np.flatnonzero(images)
    probability = np.bincount(bins, probabilities, BINS)[used] / images[used]
    accuracy = np.bincount(bins, predictions == labels, BINS)[used] / images[used]
    loss = -float(logarithms[np.arange(len(labels)), labels].mean())
    return Reliability((used / BINS).tolist(), images[used].tolist(), probability.tolist(), accuracy.tolist(), loss)


def cross_entropy(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> float:
    """The mean negative logarithm of the probability of the label, in nats.

    Args:
        logits: `[N, K]`.
        labels: int64 `[N]`.
        temperature: What logits are divided by.
    """
    logarithms = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return float(-logarithms[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
    """The temperature that gives the lowest cross-entropy (Guo et al., 2017); predictions stay the same.

    Args:
        logits: Of images that were not trained on, `[N, K]`.
        labels: int64 `[N]`.

    Returns:
        A number within `TEMPERATURES`; None if every image is right, as the surer they are made the better.

    Example:
        >>> random = np.random.default_rng(0)
        >>> probabilities = random.dirichlet(np.ones(4), 20_000)
        >>> labels = (probabilities.cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
        >>> round(fit_temperature(3 * np.log(probabilities), labels), 1)  # three times too sure
        3.0
    """
    if (logits.argmax(axis=1) == labels).all():
        return None
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda logarithm: cross_entropy(logits, labels, float(np.exp(logarithm))), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))
