"""Losses between logits and labels, and the weights of classes in them.

Shapes: a batch of `B` images; `K` classes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError

PER_IMAGE = "one label per image", "several labels per image"  # by whether there may be several

ClassWeights = Literal["balanced"] | Sequence[float] | None


class Loss(nn.Module, ABC):
    """Base of losses: what training minimises."""

    multi_label = False  # whether it is for several labels per image

    @abstractmethod
    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The mean loss of a batch, a scalar.

        Args:
            logits: float `[B, K]`.
            labels: int64 `[B]` or, of mixed images, probabilities float `[B, K]`; of several labels per image 0 and 1,
                or shares of both mixed images, float `[B, K]`.
            class_weights: The weight of each class, float `[K]`; by default 1. The weighted sum is divided by the
                number of images, not by the sum of their weights, so that every batch counts alike.
        """


class CrossEntropy(Loss):
    """Cross-entropy between labels and the softmax of the logits.

    `-sum_k w[k] * t[k] * log(softmax(logits))[k]`, averaged over the images, where `w` are the class weights and `t`
    the label's probabilities, smoothed to `(1 - label_smoothing) * t + label_smoothing / K` (Szegedy et al., 2016).
    Without smoothing this is the negative log-likelihood (NLL) of the log-softmax. A network may end in a log-softmax:
    a second one changes nothing.

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
        """The mean over the images."""
        if class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        total = F.cross_entropy(logits, labels, class_weights, reduction="sum", label_smoothing=self.label_smoothing)
        return total / len(labels)


class BinaryCrossEntropy(CrossEntropy):
    """Cross-entropy between each of several labels per image and the sigmoid of its logit (BCE).

    `-w[k] * t[k] * log(sigmoid(logits))[k] - (1 - t[k]) * log(1 - sigmoid(logits))[k]`, averaged over images and
    labels, where the class weights `w` weigh the images that have a label against those that have it not, and `t` is
    the label, smoothed to `(1 - label_smoothing) * t + label_smoothing / 2`.
    """

    multi_label = True

    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The mean over images and labels."""
        targets = (1 - self.label_smoothing) * labels.to(logits) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights)


class SoftmaxMSE(Loss):
    """Mean-squared error between the softmax of the logits and the labels' probabilities `t`.

    `w * mean_k (softmax(logits)[k] - t[k])**2`, averaged over the images, where `w = sum_k t[k] * class_weights[k]`.
    Without class weights it lies in [0, 2 / K], and `K` times it is the score of Brier (1950).
    """

    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The mean over the images."""
        probabilities = logits.softmax(dim=1)
        targets = F.one_hot(labels, logits.shape[1]).to(logits) if labels.ndim == 1 else labels
        each = (probabilities - targets).square().mean(dim=1)
        return (each if class_weights is None else each * (targets @ class_weights)).mean()


def fitting_loss(loss: Loss | None, multi_label: bool) -> Loss:
    """The loss given, if it is for as many labels per image; the cross-entropy of several is the binary one."""
    if loss is None or (multi_label and type(loss) is CrossEntropy):
        smoothing = loss.label_smoothing if loss else 0.0
        return BinaryCrossEntropy(smoothing) if multi_label else CrossEntropy(smoothing)
    if loss.multi_label != multi_label:
        remedy = "BinaryCrossEntropy, or say multi_label = True in its class" if multi_label else "CrossEntropy"
        its, others = PER_IMAGE[loss.multi_label], PER_IMAGE[multi_label]
        raise UserError(f"model.loss is {type(loss).__name__}, for {its}, but these have {others}; give {remedy}.")
    return loss


def check_labels(multi_label: bool, expected: bool, whose: str, other: str) -> None:
    """Refuse two parts of a run if only one of them has several labels per image."""
    if multi_label != expected:
        its, others = PER_IMAGE[multi_label], PER_IMAGE[expected]
        raise UserError(f"{whose} has {its}, {other} {others}; give both the same, by multi_label.")


def check_class_weights(weights: ClassWeights, num_classes: int) -> Any:
    """Class weights that are numbers, as floats; refuses any but one finite number for each class, not all 0."""
    if weights is None or isinstance(weights, str):
        return weights
    numbers = [float(weight) for weight in weights]
    if len(numbers) != num_classes or not min(numbers) >= 0 or not 0 < sum(numbers) < math.inf:
        raise UserError(
            f"model.class_weights is {weights}; give {num_classes} finite numbers of at least 0, not all 0, one for "
            "each class, or balanced."
        )
    return numbers


def balanced_weights(datamodule: Any, multi_label: bool = False) -> list[float]:
    """Weights inversely proportional to the training images of each class, 1 on average over the images.

    Of several labels per image, those by which the images that have a label weigh as much as those that have it not.
    """
    counts = getattr(datamodule, "class_counts", None)
    if counts is None:
        raise UserError(
            "model.class_weights is balanced, but what is trained on does not say its class_counts; give numbers."
        )
    if multi_label:
        images = len(datamodule.splits["train"])
        return [(images - count) / count if 0 < count < images else 1.0 for count in counts]
    return [sum(counts) / (len(counts) * count) if count else 0.0 for count in counts]
