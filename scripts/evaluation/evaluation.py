"""Compute all metrics of one checkpoint's evaluation from its predictions.

Shapes: `N` images, `K` classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from callbacks.tensorboard.confusion_matrix import MOST_CLASSES
from core.names import escape_name
from datamodules.base import ImageDataModule
from models.serialization.class_path import known_classes
from models.training.extra_metrics import ExtraMetrics
from scripts.evaluation.fold_runs import FoldRun
from scripts.inference.predictions import Predictions
from scripts.inference.trained_network import TrainedNetwork
from scripts.uncertainty.calibration import BINS, Reliability, fit_temperature, reliability
from scripts.uncertainty.intervals import CONFIDENCE, Interval, class_metrics, wilson
from scripts.uncertainty.mean import Mean, mean_of_runs

LONGEST = 80  # characters of the line under a picture that shows the other columns of the data's table


@dataclass(frozen=True)
class Evaluation:
    """A network's predictions on a split, and the metrics computed from them."""

    trained: TrainedNetwork
    data: ImageDataModule
    split: str  # "train", "val", "test", or "out-of-fold"
    tested: Predictions  # on `split`
    validated: Predictions  # on the validation split, for the temperature
    leaked: NDArray[np.bool_] | None = None  # True for each image that was trained on in some form, `[N]`
    folds: Sequence[FoldRun] = ()  # the runs of a cross-validation

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Number of images by label and predicted class, int64 `[K, K]`."""
        count = len(self.tested.class_names)
        return np.bincount(self.tested.labels * count + self.tested.classes, minlength=count**2).reshape(count, count)

    @cached_property
    def class_numbers(self) -> dict[str, NDArray[Any]]:
        """Number of images of each class, and number of images predicted as each class, `[K]` each."""
        return {"images": self.confusion.sum(axis=1), "predicted": self.confusion.sum(axis=0)}

    @property
    def headline(self) -> str:
        """The main result, to print."""
        low, high = self.interval
        return f"accuracy     {self.tested.accuracy:.4f} ({CONFIDENCE:.0%} interval {low:.4f} to {high:.4f})"

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """Multi-label: the probability above which each label is predicted, `[N, K]`. Single-label: empty."""
        return np.empty(0)

    @property
    def summary(self) -> dict[str, float]:
        """Multi-label: metrics over all labels. Single-label: empty."""
        return {}

    @cached_property
    def interval(self) -> Interval:
        """The confidence interval of the accuracy."""
        return wilson(self.tested.is_right.sum(), len(self.tested))

    @cached_property
    def leakage(self) -> dict[str, dict[str, Any]]:
        """The accuracy on leaked and on clean images, with the number of images; empty if no image leaked."""
        if self.leaked is None or not self.leaked.any():
            return {}
        leakage: dict[str, dict[str, Any]] = {}
        for name, mask in (("leaked", self.leaked), ("clean", ~self.leaked)):
            images, correct = int(mask.sum()), int(self.tested.is_right[mask].sum())
            if images:
                counts = {"images": images, "right": correct, "share_right": correct / images}
                leakage[name] = {**counts, "interval": wilson(correct, images)}
        return leakage

    @cached_property
    def top5_accuracy(self) -> float | None:
        """Fraction of images whose label is among the five most probable classes; None for ten classes or fewer."""
        if len(self.tested.class_names) <= 10 or self.tested.is_multi_label:
            return None
        best = np.argpartition(-self.tested.logits, 5, axis=1)[:, :5]
        return float((best == self.tested.labels[:, None]).any(axis=1).mean())

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The run's own metrics, as configured by `model.metrics`."""
        saved = self.trained.checkpoint.get("hyper_parameters", {})
        with known_classes(str(self.trained.path)):
            metrics = ExtraMetrics(saved.get("metrics"), len(self.tested.class_names), saved.get("multi_label", False))
        return metrics.compute(torch.from_numpy(self.tested.logits), torch.from_numpy(self.tested.labels))

    @property
    def is_shown_by_class(self) -> bool:
        """True if there are few enough classes to draw or list all of them."""
        return len(self.tested.class_names) <= MOST_CLASSES

    @cached_property
    def classes(self) -> dict[str, dict[str, Any]]:
        """The numbers, precision, recall and F1 of each class, with intervals; None for an undefined value."""
        numbers = self.class_numbers
        metrics = class_metrics(np.diag(self.confusion), numbers["predicted"], numbers["images"])
        columns = dict(numbers)
        for number, name in enumerate(("precision", "recall", "f1")):
            columns |= {name: metrics[0, number], f"{name}_interval": metrics[1:, number].T}
        plain = {name: np.where(np.isnan(values), np.array(None), values).tolist() for name, values in columns.items()}
        rows = [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]
        return dict(zip(self.tested.class_names, rows, strict=True))

    @cached_property
    def temperature(self) -> float | None:
        """The temperature that calibrates the validation split best; None if all its predictions are correct."""
        return fit_temperature(*self.validated.answers)

    @cached_property
    def calibration(self) -> dict[str, Reliability]:
        """The reliability of the logits as they are, and divided by the temperature."""
        temperatures = {"as_it_is": 1.0} | ({"temperature_scaled": self.temperature} if self.temperature else {})
        return {name: reliability(*self.tested.answers, value) for name, value in temperatures.items()}

    @cached_property
    def fitted_on_the_same(self) -> bool:
        """True if the temperature was fitted on some of the tested images."""
        return bool(np.isin(self.tested.places, self.validated.places).any())

    @cached_property
    def over_folds(self) -> Mean | None:
        """The mean accuracy of a single network over the folds of a cross-validation."""
        return mean_of_runs([(run.fold, run.tested.accuracy) for run in self.folds], None) if self.folds else None

    @cached_property
    def pairs(self) -> list[tuple[int, int, int]]:
        """Label, predicted class and number of images of each confused pair, the most frequent first."""
        confused = self.confusion - np.diag(np.diag(self.confusion))
        cells = [(row, column, int(confused[row, column])) for row, column in np.argwhere(confused).tolist()]
        return sorted(cells, key=lambda cell: -cell[2])

    @cached_property
    def certain_mistakes(self) -> list[int]:
        """The indices of the images predicted wrong, the most probable first."""
        return sorted_rows(~self.tested.is_right, -self.tested.probabilities.max(axis=1))

    @cached_property
    def uncertain_hits(self) -> list[int]:
        """The indices of the images predicted correctly, the least probable first."""
        return sorted_rows(self.tested.is_right, self.tested.probabilities.max(axis=1))

    def examples(self, label: int, predicted: int) -> list[int]:
        """Return the indices of the images of a confused pair, the most probable first."""
        rows = (self.tested.labels == label) & (self.tested.classes == predicted)
        return sorted_rows(rows, -self.tested.probabilities[:, predicted])

    def explained_class(self, row: int) -> int:
        """Return the class that Grad-CAM explains for an image."""
        return int(self.tested.classes[row])

    def caption(self, row: int) -> list[str]:
        """Return the lines under the picture of an image."""
        label, predicted = int(self.tested.labels[row]), int(self.tested.classes[row])
        label_line, predicted_line = (
            f"{self.tested.class_names[number]}, {self.tested.probabilities[row, number]:.1%}"
            for number in (label, predicted)
        )
        if label == predicted:
            return [label_line, self.tested.names[row]]
        lines = [predicted_line, f"is {label_line}", self.tested.names[row]]
        columns = ", ".join(f"{name} {texts[row]}" for name, texts in self.tested.carried.items() if texts[row])
        return [*lines, escape_name(columns[:LONGEST])] if columns else lines

    def as_json(self) -> dict[str, Any]:
        """Return all metrics in plain types."""
        names = self.tested.class_names
        return {
            "checkpoint": None if self.folds else str(self.trained.path),
            "folds": [
                {"fold": run.fold, "seed": run.seed, "accuracy": run.tested.accuracy, "run": str(run.trained.folder)}
                for run in self.folds
            ],
            "mean_over_folds": self.over_folds and [self.over_folds.value, self.over_folds.interval],
            "data": type(self.data).__name__,
            "data_fingerprint": self.data.data_fingerprint,
            "data_changes": self.trained.changes_of(self.data),
            "split": self.split,
            "images": len(self.tested),
            "right": int(self.tested.is_right.sum()),
            "accuracy": self.tested.accuracy,
            "accuracy_interval": list(self.interval),
            "leakage": self.leakage,
            "confidence": CONFIDENCE,
            "top5_accuracy": self.top5_accuracy,
            "loss": self.calibration["as_it_is"].loss,
            "metrics": {name: None if np.isnan(value) else value for name, value in self.metrics.items()},
            "class_names": names,
            "classes": self.classes,
            "confusion": self.confusion.tolist() if self.is_shown_by_class else None,
            "confused_pairs": [
                {"label": names[label], "prediction": names[predicted], "images": count}
                for label, predicted, count in self.pairs
            ],
            "calibration": {
                "temperature": self.temperature,
                "fitted_on": "val",
                "fitted_on_the_same_images": self.fitted_on_the_same,
                "bins": BINS,
                **{name: {"ece": bins.ece, **asdict(bins)} for name, bins in self.calibration.items()},
            },
        }


def sorted_rows(mask: NDArray[np.bool_], key: NDArray[np.float64]) -> list[int]:
    """Return the indices at which a mask `[N]` is True, sorted by a key `[N]`."""
    rows = np.flatnonzero(mask)
    ordered: list[int] = rows[np.argsort(key[rows], kind="stable")].tolist()
    return ordered
