"""Losses between logits and labels.

Shapes: a batch of `B` images; `K` classes.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError

PER_IMAGE = "one label per image", "several labels per image"  # in messages, indexed by `multi_label`


class Loss(nn.Module, ABC):
    """Base class of losses that training minimises."""

    multi_label = False  # whether the loss is for multi-label data

    @abstractmethod
    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            logits: float `[B, K]`.
            labels: Single-label: int64 `[B]`, or probabilities float `[B, K]` for mixed images. Multi-label: float
                `[B, K]`, 0 or 1, or fractions for mixed images.
            class_weights: The weight of each class, float `[K]`; by default 1. The weighted sum is divided by the
                number of images, not by the sum of their weights, so that all batches of a size count equally.
        """


class CrossEntropy(Loss):
    """Cross-entropy between labels and the softmax of the logits.

    `-sum_k w[k] * t[k] * log(softmax(logits))[k]`, averaged over the images. `w` are the class weights; `t` are the
    label's probabilities, smoothed to `(1 - label_smoothing) * t + label_smoothing / K` (Szegedy et al., 2016).
    Without smoothing this is the negative log-likelihood (NLL) of the log-softmax. A network may end in a log-softmax:
    a second log-softmax changes nothing.

    Args:
        label_smoothing: Probability mass that is spread evenly over all classes.

    Raises:
        ValueError: If label_smoothing is outside [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; give a probability from 0 to below 1")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return the mean over the images, a scalar."""
        if class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        total = F.cross_entropy(logits, labels, class_weights, reduction="sum", label_smoothing=self.label_smoothing)
        return total / len(labels)


class BinaryCrossEntropy(CrossEntropy):
    """Binary cross-entropy (BCE) between each label of a multi-label image and the sigmoid of its logit.

    `-w[k] * t[k] * log(sigmoid(logits))[k] - (1 - t[k]) * log(1 - sigmoid(logits))[k]`, averaged over images and
    labels. The class weight `w` multiplies the loss of images that have the label. `t` is the label, smoothed to
    `(1 - label_smoothing) * t + label_smoothing / 2`.
    """

    multi_label = True

    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return the mean over images and labels, a scalar."""
        targets = (1 - self.label_smoothing) * labels.to(logits) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights)


class SoftmaxMSE(Loss):
    """Mean squared error between the softmax of the logits and the label's probabilities `t`.

    `w * mean_k (softmax(logits)[k] - t[k])**2`, averaged over the images, where `w = sum_k t[k] * class_weights[k]`.
    Without class weights it lies in [0, 2 / K], and `K` times the loss is the Brier score (Brier, 1950).
    """

    def forward(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return the mean over the images, a scalar."""
        probabilities = logits.softmax(dim=1)
        targets = F.one_hot(labels, logits.shape[1]).to(logits) if labels.ndim == 1 else labels
        errors = (probabilities - targets).square().mean(dim=1)
        if class_weights is not None:
            errors = errors * (targets @ class_weights)
        return errors.mean()


def make_loss(loss: Loss | None, multi_label: bool) -> Loss:
    """Return the loss to train with: the cross-entropy by default, for multi-label data the binary one."""
    if loss is None:
        loss = CrossEntropy()
    if multi_label and type(loss) is CrossEntropy:
        return BinaryCrossEntropy(loss.label_smoothing)
    if loss.multi_label != multi_label:
        remedy = "BinaryCrossEntropy, or say multi_label = True in its class" if multi_label else "CrossEntropy"
        raise UserError(
            f"model.loss is {type(loss).__name__}, for {PER_IMAGE[loss.multi_label]}, but the data has "
            f"{PER_IMAGE[multi_label]}; give {remedy}."
        )
    return loss


def check_labels(multi_label: bool, expected: bool, name: str, other_name: str) -> None:
    """Raise UserError unless both parts of a run are single-label or both are multi-label."""
    if multi_label != expected:
        raise UserError(
            f"{name} has {PER_IMAGE[multi_label]}, {other_name} {PER_IMAGE[expected]}; give both the same, by "
            "multi_label."
        )
