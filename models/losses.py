"""Losses between logits and labels.

Shapes: a batch of `B` images; `K` classes.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F


class Loss(nn.Module, ABC):
    """Maps the logits of a batch and its labels to what training minimises.

    Shape:
        Logits float `[B, K]`; labels int64 `[B]` or, of mixed images, probabilities float `[B, K]`; class weights
        float `[K]`; the loss is a scalar.
    """

    @abstractmethod
    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The mean over the batch's images.

        Args:
            logits: float `[B, K]`.
            labels: int64 `[B]`, or probabilities float `[B, K]`.
            class_weights: What each class counts, float `[K]`; by default 1. The weighted sum is divided by the number
                of images and not by their weights, so that every batch counts alike, whatever is in it.
        """


class CrossEntropy(Loss):
    """Cross-entropy between labels and the softmax of the logits.

    `-sum_k w[k] * t[k] * log(softmax(logits))[k]`, averaged over the images, where `w` are the class weights and `t`
    the label's probabilities, smoothed to `(1 - label_smoothing) * t + label_smoothing / K` (Szegedy et al., 2016).

    Without smoothing this is the negative log-likelihood (NLL) of the log-softmax, under its other name. It is that for
    a network that ends in a log-softmax too, because the log-softmax of log-probabilities is themselves.

    Args:
        label_smoothing: The probability that is spread evenly over all classes.

    Raises:
        ValueError: If label_smoothing is outside [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; give a probability from 0 to below 1")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The mean over the batch's images."""
        if class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        total = F.cross_entropy(logits, labels, class_weights, reduction="sum", label_smoothing=self.label_smoothing)
        return total / len(labels)


class SoftmaxMSE(Loss):
    """Mean-squared error between the softmax of the logits and the labels' probabilities.

    `w * mean_k (softmax(logits)[k] - t[k])**2`, averaged over the images, where `t` are the label's probabilities (one
    for its class, or those of a mixed image) and `w = sum_k t[k] * class_weights[k]`. Averaged over the classes, as
    `torch.nn.MSELoss` does: `K` times this is the score of Brier (1950). In [0, 2 / K] without class weights.
    """

    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The mean over the batch's images."""
        probabilities = logits.softmax(dim=1)
        targets = F.one_hot(labels, logits.shape[1]).to(logits) if labels.ndim == 1 else labels
        each = (probabilities - targets).square().mean(dim=1)
        return (each if class_weights is None else each * (targets @ class_weights)).mean()
