"""The figures of an epoch."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric


class ClassificationMetrics(Metric):
    """Loss, accuracy and (with more than 10 classes) top-5 accuracy, as exact means over images of all processes.

    For a mixed image, a prediction is right by the share of the predicted class (Zhang et al., 2018, mixup).

    One metric holds all figures, because each update of a metric takes a noticeable part of a small network's step. A
    checkpoint holds its state, so that an interrupted epoch ends with the figures of the whole.
    """

    full_state_update = False
    loss_sum: Tensor
    correct: Tensor
    top5_correct: Tensor
    total: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.top5 = num_classes > 10
        self.names = ["loss", "accuracy", *(["top5_accuracy"] if self.top5 else [])]
        # Apple's GPUs have no float64.
        precise = torch.float32 if torch.backends.mps.is_available() else torch.float64
        for name in ("loss_sum", "correct", "top5_correct"):
            self.add_state(name, torch.zeros((), dtype=precise), dist_reduce_fx="sum", persistent=True)
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum", persistent=True)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        # Moved to a device, but never converted: a network in bfloat16 would count 257 images as 256.
        return super()._apply(lambda value: value.to(fn(value).device), exclude_state)

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count a batch: logits float `[B, K]`, labels int64 `[B]` or probabilities `[B, K]`, and its mean loss."""
        # In place: an assignment to a module's attribute takes longer than the sum.
        self.loss_sum.add_(loss, alpha=len(labels))
        self.correct.add_(_right(logits.argmax(dim=1, keepdim=True), labels))
        if self.top5:
            self.top5_correct.add_(_right(logits.topk(5, dim=1).indices, labels))
        self.total.add_(len(labels))

    def compute(self) -> Mapping[str, Tensor]:
        """Each figure by its name; NaN when nothing was counted."""
        sums = {"loss": self.loss_sum, "accuracy": self.correct, "top5_accuracy": self.top5_correct}
        return {name: sums[name] / self.total for name in self.names}

    def figures(self) -> Mapping[str, Tensor]:
        """The figures over all processes, without torchmetrics' warning that a checkpoint's counts were not updated."""
        with self.sync_context():
            return type(self).compute(self)


class MultiLabelMetrics(ClassificationMetrics):
    """Loss, accuracy and exact match of several labels per image, at a probability of 0.5.

    `accuracy` is the share of all labels of all images that are right (1 less the Hamming loss), of a mixed image by
    its shares; `exact_match` that of images whose labels are all right, of a mixed one those of the larger share.
    """

    exact_matches: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(0)
        self.add_state("exact_matches", torch.zeros_like(self.correct), dist_reduce_fx="sum", persistent=True)

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count a batch: logits and labels float `[B, K]`, and its mean loss."""
        predicted = logits > 0
        self.loss_sum.add_(loss, alpha=len(labels))
        right = torch.where(predicted, labels, 1 - labels)
        self.correct.add_(right.sum(dtype=self.correct.dtype), alpha=1 / labels.shape[1])
        self.exact_matches.add_((predicted == (labels > 0.5)).all(dim=1).sum())
        self.total.add_(len(labels))

    def compute(self) -> Mapping[str, Tensor]:
        """Each figure by its name; NaN when nothing was counted."""
        return {**super().compute(), "exact_match": self.exact_matches / self.total}


def best_thresholds(probabilities: Tensor, labels: Tensor) -> list[float]:
    """The probability above which each label is predicted for its F1 to be highest.

    It lies midway between two neighbouring probabilities, and is the highest of those that are equally good; 0.5 for a
    label that no image has. Both are `[N, K]`, labels 0 or 1.
    """
    ranked, order = probabilities.sort(dim=0, descending=True)
    below = torch.cat([ranked[1:], torch.zeros_like(ranked[:1])])
    there, counts = labels.sum(dim=0), torch.arange(1, len(labels) + 1, device=labels.device)[:, None]
    f1 = 2 * labels.gather(0, order).cumsum(dim=0) / (counts + there)
    best = f1.masked_fill(ranked == below, -1).argmax(dim=0, keepdim=True)  # equal ones are predicted together
    middle = (ranked.gather(0, best) + below.gather(0, best))[0] / 2
    return torch.where(there > 0, middle, 0.5).nan_to_num(0.5).tolist()


def _right(predictions: Tensor, labels: Tensor) -> Tensor:
    # The number of predictions, int64 `[B, n]`, that are right.
    return (predictions == labels[:, None]).sum() if labels.ndim == 1 else labels.gather(1, predictions).sum()
