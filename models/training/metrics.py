"""The figures of an epoch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric


class ClassificationMetrics(Metric):
    """Loss and accuracy as exact means over images, whatever the sizes of the batches and the number of processes.

    Of images that are mixed of several classes, a prediction is right by the share of the class predicted, as the
    authors of mixup count (Zhang et al., 2018).

    One metric for all figures, because each update of a metric costs a noticeable part of a small network's step. The
    state is part of a checkpoint, so that an epoch that was interrupted ends with the figures of the whole.

    Args:
        num_classes: Classes, K; with more than 10, top-5 accuracy is counted as well.
    """

    full_state_update = False
    loss_sum: Tensor
    correct: Tensor
    top5_correct: Tensor
    total: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.top5 = num_classes > 10
        # Apple's GPUs have no float64.
        precise = torch.float32 if torch.backends.mps.is_available() else torch.float64
        for name in ("loss_sum", "correct", "top5_correct"):
            self.add_state(name, torch.zeros((), dtype=precise), dist_reduce_fx="sum", persistent=True)
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum", persistent=True)

    @property
    def names(self) -> list[str]:
        """The figures that `compute` gives."""
        return ["loss", "accuracy", *(["top5_accuracy"] if self.top5 else [])]

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        # In bfloat16, which a network may be converted to, 257 images would count as 256.
        return super()._apply(lambda value: value.to(fn(value).device), exclude_state)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        # Counted before the checkpoint is counted too: no warning that there was nothing.
        self._update_count = int(self.total > 0)

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Count a batch.

        Args:
            logits: float `[B, K]`.
            labels: int64 `[B]`, or probabilities float `[B, K]`.
            loss: The batch's mean loss, a scalar.
        """
        # In place: an assignment to a module's attribute takes longer than the sum.
        self.loss_sum.add_(loss, alpha=len(labels))
        self.correct.add_(_right(logits.argmax(dim=1, keepdim=True), labels))
        if self.top5:
            self.top5_correct.add_(_right(logits.topk(5, dim=1).indices, labels))
        self.total.add_(len(labels))

    def compute(self) -> Mapping[str, Tensor]:
        """Mean `loss`, `accuracy` and, where counted, `top5_accuracy` in [0, 1]; NaN when nothing was counted."""
        figures = {"loss": self.loss_sum / self.total, "accuracy": self.correct / self.total}
        if self.top5:
            figures["top5_accuracy"] = self.top5_correct / self.total
        return figures


def _right(predictions: Tensor, labels: Tensor) -> Tensor:
    """How many of predictions int64 `[B, n]` are right, a scalar."""
    return (predictions == labels[:, None]).sum() if labels.ndim == 1 else labels.gather(1, predictions).sum()
