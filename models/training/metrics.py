"""The figures of an epoch."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
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

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Count a batch: logits float `[B, K]`, labels int64 `[B]` or probabilities `[B, K]`.

        `loss` is the batch's mean loss; by default the cross-entropy.
        """
        if loss is None:
            loss = F.cross_entropy(logits.to(self.loss_sum.dtype), labels)
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

    def totals(self, prefix: str) -> dict[str, Tensor]:
        """The state dict over all processes, which a checkpoint has."""
        with self.sync_context():
            return self.state_dict(prefix=prefix)


def _right(predictions: Tensor, labels: Tensor) -> Tensor:
    # The number of predictions, int64 `[B, n]`, that are right.
    return (predictions == labels[:, None]).sum() if labels.ndim == 1 else labels.gather(1, predictions).sum()
