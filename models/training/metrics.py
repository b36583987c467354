"""Metrics that are accumulated over an epoch."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric


class ClassificationMetrics(Metric):
    """Loss, accuracy and, with more than 10 classes, top-5 accuracy, as exact means over the images of all ranks.

    For a mixed image, a prediction counts by the predicted class's fraction of the image (mixup, Zhang et al., 2018).

    A single torchmetrics object computes all of them, because each update of such an object takes a noticeable part of
    a small network's step. A checkpoint holds its state, so that a resumed epoch counts all of its images.
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
        # Move the sums to the device, but keep their dtype: in bfloat16, 257 images would be counted as 256.
        return super()._apply(lambda value: value.to(fn(value).device), exclude_state)

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Add a batch: logits `[B, K]`, labels `[B]` or probabilities `[B, K]`, mean loss (default: cross-entropy)."""
        if loss is None:
            loss = F.cross_entropy(logits.to(self.loss_sum.dtype), labels)
        # In place, because assigning a module's attribute takes longer than the addition.
        self.loss_sum.add_(loss, alpha=len(labels))
        self.correct.add_(_count_correct(logits.argmax(dim=1, keepdim=True), labels))
        if self.top5:
            self.top5_correct.add_(_count_correct(logits.topk(5, dim=1).indices, labels))
        self.total.add_(len(labels))

    def compute(self) -> Mapping[str, Tensor]:
        """Return each metric by its name; NaN if no image was added."""
        sums = {"loss": self.loss_sum, "accuracy": self.correct, "top5_accuracy": self.top5_correct}
        return {name: sums[name] / self.total for name in self.names}

    def compute_over_ranks(self) -> Mapping[str, Tensor]:
        """Return the metrics over all ranks, without torchmetrics' warning about a restored state without updates."""
        with self.sync_context():
            return type(self).compute(self)

    def state_over_ranks(self, prefix: str) -> dict[str, Tensor]:
        """Return the state dict with sums over all ranks, for a checkpoint."""
        with self.sync_context():
            return self.state_dict(prefix=prefix)


def _count_correct(predictions: Tensor, labels: Tensor) -> Tensor:
    # Predictions are classes, int64 `[B, n]`.
    return (predictions == labels[:, None]).sum() if labels.ndim == 1 else labels.gather(1, predictions).sum()
