"""Compute the metrics of a multi-label evaluation.

Shapes: `N` images, `K` labels.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score
from typing_extensions import override

from core.names import label_name
from scripts.evaluation.evaluation import Evaluation, sorted_rows


class MultiLabelEvaluation(Evaluation):
    """A multi-label evaluation. The threshold of each label was chosen on the validation split."""

    @cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """The threshold of each label for each image, `[N, K]`; with folds, the mean over the fold's seeds."""
        if not self.folds:
            return np.broadcast_to(self.trained.thresholds, self.tested.probabilities.shape)
        means = {
            str(fold): np.mean([run.trained.thresholds for run in self.folds if run.fold == fold], axis=0)
            for fold in {run.fold for run in self.folds}
        }
        return np.stack([means[fold] for fold in self.tested.carried["fold"]])

    @cached_property
    def predicted(self) -> NDArray[np.bool_]:
        """True for each predicted label, bool `[N, K]`."""
        return self.tested.probabilities > self.thresholds

    @cached_property
    def errors(self) -> NDArray[np.float64]:
        """The distance of the probability from the label, 0 or 1, where the prediction is wrong; else 0, `[N, K]`."""
        labels = self.tested.labels
        return np.where(self.predicted != labels, np.abs(self.tested.probabilities - labels), 0)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """The co-occurrence: number of images with a label (rows) for which a label is predicted, int64 `[K, K]`."""
        return self.tested.labels.T.astype(np.int64) @ self.predicted

    @cached_property
    def class_numbers(self) -> dict[str, NDArray[Any]]:
        """The numbers of each label, `[K]` each; the average precision of a label without images is NaN."""
        labels, probabilities = self.tested.labels, self.tested.probabilities
        has_images = labels.any(axis=0)
        precision = np.full(labels.shape[1], np.nan)
        precision[has_images] = average_precision_score(
            labels[:, has_images], probabilities[:, has_images], average=None
        )
        return {
            "images": labels.sum(axis=0, dtype=np.int64),
            "predicted": self.predicted.sum(axis=0),
            "threshold": self.thresholds.mean(axis=0),
            "average_precision": precision,
        }

    @cached_property
    def summary(self) -> dict[str, float]:
        """The metrics over all labels, except labels that no image has and that are never predicted."""
        labels, predicted = self.tested.labels, self.predicted
        metrics = {
            "mean_average_precision": np.nanmean(self.class_numbers["average_precision"]),
            "micro_average_precision": average_precision_score(labels, self.tested.probabilities, average="micro"),
            "macro_f1": f1_score(labels, predicted, average="macro", zero_division=np.nan),
            "micro_f1": f1_score(labels, predicted, average="micro", zero_division=np.nan),
            "exact_match": self.tested.is_right.mean(),
            "accuracy": self.tested.accuracy,
        }
        return {name: float(value) for name, value in metrics.items()}

    @property
    def headline(self) -> str:
        """The main results, to print."""
        metrics = {name: f"{value:.4f}" for name, value in self.summary.items()}
        return (
            f"mAP          {metrics['mean_average_precision']}\n"
            f"F1           {metrics['macro_f1']} macro, {metrics['micro_f1']} micro\n"
            f"exact match  {metrics['exact_match']}"
        )

    @cached_property
    def pairs(self) -> list[tuple[int, int, int]]:
        """Each label, twice, and the number of images for which it is predicted wrong, the most frequent first."""
        counts = (self.errors > 0).sum(axis=0).tolist()
        return sorted(((label, label, count) for label, count in enumerate(counts) if count), key=lambda row: -row[2])

    @override
    def examples(self, label: int, predicted: int) -> list[int]:
        return sorted_rows(self.errors[:, label] > 0, -self.errors[:, label])

    @override
    def explained_class(self, row: int) -> int:
        return int(self.errors[row].argmax())

    @cached_property
    def certain_mistakes(self) -> list[int]:
        """The indices of the images with a label that is predicted wrong, the most certain first."""
        largest = self.errors.max(axis=1)
        return sorted_rows(largest > 0, -largest)

    @override
    def caption(self, row: int) -> list[str]:
        labels, names, probabilities = self.tested.labels[row], self.tested.class_names, self.tested.probabilities[row]
        errors = [
            f"{'no' if labels[label] else ''} {names[label]}, {probabilities[label]:.1%}"
            for label in self.errors[row].nonzero()[0]
        ]
        return [*errors, f"is {label_name(labels, names) or 'none'}", self.tested.names[row]]

    @override
    def as_json(self) -> dict[str, Any]:
        values, labels = super().as_json() | self.summary, self.tested.labels.astype(np.int64)
        co_occurrence = {"labels": (labels.T @ labels).tolist(), "label_and_predicted": values["confusion"]}
        for single_label in ("confusion", "confused_pairs", "right", "accuracy_interval", "top5_accuracy"):
            del values[single_label]
        return values | {"co_occurrence": co_occurrence}
