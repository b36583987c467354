"""The figures of an evaluation with several labels per image.

Shapes: `N` images, `K` labels.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score
from typing_extensions import override

from core.names import label_name
from scripts.evaluation.evaluation import Evaluation


class MultiLabelEvaluation(Evaluation):
    """An evaluation in which a label is predicted above its threshold, which was chosen on the validation split."""

    top5_accuracy = None

    @cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """The threshold of each label for each image, `[N, K]`: of folds, the mean over the fold's networks."""
        if not self.folds:
            return np.broadcast_to(self.trained.thresholds, self.tested.probabilities.shape)
        of_folds: dict[int, list[NDArray[np.float64]]] = {}
        for run in self.folds:
            of_folds.setdefault(run.fold, []).append(run.trained.thresholds)
        means = {str(fold): np.mean(each, axis=0) for fold, each in of_folds.items()}
        return np.stack([means[fold] for fold in self.tested.carried["fold"]])

    @cached_property
    def predicted(self) -> NDArray[np.bool_]:
        """Whether each label is predicted, bool `[N, K]`."""
        return self.tested.probabilities > self.thresholds

    @cached_property
    def wrong_by(self) -> NDArray[np.float64]:
        """How far the probability of each label that is predicted wrong is from what it has, `[N, K]`; 0 if right."""
        labels = self.tested.labels
        return np.where(self.predicted != labels, np.abs(self.tested.probabilities - labels), 0)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """The co-occurrence: images by each label that they have and each that is predicted, int64 `[K, K]`."""
        return self.tested.labels.T.astype(np.int64) @ self.predicted

    @cached_property
    def class_numbers(self) -> dict[str, NDArray[Any]]:
        """What is known of each label, `[K]` each; average precision is NaN for one that no image has."""
        labels, probabilities, there = self.tested.labels, self.tested.probabilities, self.tested.labels.any(axis=0)
        precision = np.full(labels.shape[1], np.nan)
        precision[there] = average_precision_score(labels[:, there], probabilities[:, there], average=None)
        return {
            "images": labels.sum(axis=0, dtype=np.int64),
            "predicted": self.predicted.sum(axis=0),
            "threshold": self.thresholds.mean(axis=0),
            "average_precision": precision,
        }

    @cached_property
    def summary(self) -> dict[str, float]:
        """The figures over all labels; one that no image has, and that is predicted for none, does not count."""
        labels, predicted = self.tested.labels, self.predicted
        figures = {
            "mean_average_precision": np.nanmean(self.class_numbers["average_precision"]),
            "micro_average_precision": average_precision_score(labels, self.tested.probabilities, average="micro"),
            "macro_f1": f1_score(labels, predicted, average="macro", zero_division=np.nan),
            "micro_f1": f1_score(labels, predicted, average="micro", zero_division=np.nan),
            "exact_match": self.tested.is_right.mean(),
            "accuracy": self.tested.accuracy,
        }
        return {name: float(value) for name, value in figures.items()}

    @property
    def headline(self) -> str:
        """The figures that are printed."""
        ap, _, macro, micro, exact, _ = self.summary.values()
        return f"mAP          {ap:.4f}\nF1           {macro:.4f} macro, {micro:.4f} micro\nexact match  {exact:.4f}"

    @cached_property
    def pairs(self) -> list[tuple[int, int, int]]:
        """Each label twice, with the images for which it is predicted wrong, the most frequent first."""
        counts = enumerate((self.wrong_by > 0).sum(axis=0).tolist())
        return sorted(((label, label, count) for label, count in counts if count), key=lambda pair: -pair[2])

    @override
    def examples(self, label: int, predicted: int) -> list[int]:
        return self._in_order(self.wrong_by[:, label] > 0, -self.wrong_by[:, label])

    @override
    def looked_for(self, row: int) -> int:
        return int(self.wrong_by[row].argmax())

    @cached_property
    def certain_mistakes(self) -> list[int]:
        """Rows with a label that is predicted wrong, the most certain first."""
        worst = self.wrong_by.max(axis=1)
        return self._in_order(worst > 0, -worst)

    @override
    def caption(self, row: int) -> list[str]:
        labels, names, shares = self.tested.labels[row], self.tested.class_names, self.tested.probabilities[row]
        wrong = [f"{'no' if labels[k] else ''} {names[k]}, {shares[k]:.1%}" for k in self.wrong_by[row].nonzero()[0]]
        return [*wrong, f"is {label_name(labels, names) or 'none'}", self.tested.names[row]]

    @override
    def as_json(self) -> dict[str, Any]:
        whole, labels = super().as_json() | self.summary, self.tested.labels.astype(np.int64)
        without = {"confusion", "confused_pairs", "right", "accuracy_interval", "top5_accuracy"}
        together = {"labels": (labels.T @ labels).tolist(), "label_and_predicted": whole["confusion"]}
        return {name: value for name, value in whole.items() if name not in without} | {"co_occurrence": together}
