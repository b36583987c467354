"""The figures of one checkpoint's evaluation.

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
from scripts.uncertainty.intervals import CONFIDENCE, Interval, class_figures, wilson
from scripts.uncertainty.mean import Mean, mean_of_runs

LONGEST = 80  # letters of the source's other columns that stand under an image's picture

FIGURES = ("precision", "recall", "f1")  # of each class


@dataclass(frozen=True)
class Evaluation:
    """A network's predictions on a split, and the figures that follow from them."""

    trained: TrainedNetwork
    data: ImageDataModule
    split: str
    tested: Predictions  # on that split
    validated: Predictions  # on the validation split, for the temperature
    leaked: NDArray[np.bool_] | None = None  # which images tested were trained on in some form, `[N]`
    folds: Sequence[FoldRun] = ()  # where several networks were tested, each on its fold

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Images by label and class predicted, int64 `[K, K]`."""
        count = len(self.tested.class_names)
        return np.bincount(self.tested.labels * count + self.tested.classes, minlength=count**2).reshape(count, count)

    @cached_property
    def class_numbers(self) -> dict[str, NDArray[Any]]:
        """Images of each class, and those predicted as it, `[K]` each."""
        return {"images": self.confusion.sum(axis=1), "predicted": self.confusion.sum(axis=0)}

    @property
    def headline(self) -> str:
        """The figure that is printed."""
        low, high = self.interval
        return f"accuracy     {self.tested.accuracy:.4f} ({CONFIDENCE:.0%} interval {low:.4f} to {high:.4f})"

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """Of several labels per image, above which each is predicted, `[N, K]`; else empty."""
        return np.empty(0)

    @property
    def summary(self) -> dict[str, float]:
        """Of several labels per image, the figures over all labels."""
        return {}

    @cached_property
    def interval(self) -> Interval:
        """The confidence interval of the accuracy."""
        return wilson(self.tested.is_right.sum(), len(self.tested))

    @cached_property
    def leakage(self) -> dict[str, dict[str, Any]]:
        """How many leaked and clean images there are, and are right, with that share; empty if none is leaked."""
        if self.leaked is None or not self.leaked.any():
            return {}
        parts = {"leaked": self.tested.is_right[self.leaked], "clean": self.tested.is_right[~self.leaked]}
        counts = {name: (len(right), int(right.sum())) for name, right in parts.items() if len(right)}
        return {
            name: {"images": images, "right": right, "share_right": right / images, "interval": wilson(right, images)}
            for name, (images, right) in counts.items()
        }

    @cached_property
    def top5_accuracy(self) -> float | None:
        """Share of images whose label is among the five most probable classes; None for ten classes or fewer."""
        if len(self.tested.class_names) <= 10:
            return None
        best = np.argpartition(-self.tested.logits, 5, axis=1)[:, :5]
        return float((best == self.tested.labels[:, None]).any(axis=1).mean())

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The metrics that the run logged besides loss and accuracy, on these predictions."""
        saved = self.trained.checkpoint.get("hyper_parameters", {})
        with known_classes(str(self.trained.path)):
            metrics = ExtraMetrics(saved.get("metrics"), len(self.tested.class_names), saved.get("multi_label", False))
        return metrics.figures(torch.from_numpy(self.tested.logits), torch.from_numpy(self.tested.labels))

    @property
    def is_shown_by_class(self) -> bool:
        """Whether there are few enough classes to draw or list all of them."""
        return len(self.tested.class_names) <= MOST_CLASSES

    @cached_property
    def classes(self) -> dict[str, dict[str, Any]]:
        """Of each class its numbers, and precision, recall and F1 with their intervals; None where there is none."""
        numbers = self.class_numbers
        figures = class_figures(np.diag(self.confusion), numbers["predicted"], numbers["images"])
        columns = dict(numbers)
        for kind, (value, low, high) in zip(FIGURES, figures.swapaxes(0, 1), strict=True):
            columns |= {kind: value, f"{kind}_interval": np.stack([low, high], axis=1)}
        known = {kind: np.where(np.isnan(values), np.array(None), values).tolist() for kind, values in columns.items()}
        rows = zip(*known.values(), strict=True)
        return {
            name: dict(zip(known, row, strict=True)) for name, row in zip(self.tested.class_names, rows, strict=True)
        }

    @cached_property
    def temperature(self) -> float | None:
        """Fitted on the validation split; None if that has no mistake."""
        return fit_temperature(*self.validated.answers)

    @cached_property
    def calibration(self) -> dict[str, Reliability]:
        """Reliability as it is, and at that temperature."""
        kinds = {"as it is": 1.0} | ({"temperature-scaled": self.temperature} if self.temperature else {})
        return {name: reliability(*self.tested.answers, temperature) for name, temperature in kinds.items()}

    @cached_property
    def over_folds(self) -> Mean | None:
        """The mean accuracy of a network of a cross-validation."""
        return mean_of_runs([(run.fold, run.tested.accuracy) for run in self.folds], None) if self.folds else None

    @cached_property
    def fitted_on_the_same(self) -> bool:
        """Whether the temperature was fitted on images that it is judged on."""
        return bool(np.isin(self.tested.places, self.validated.places).any())

    @cached_property
    def pairs(self) -> list[tuple[int, int, int]]:
        """Label, prediction and images of each two classes that were confused, the most frequent first."""
        confused = self.confusion - np.diag(np.diag(self.confusion))
        cells = np.argwhere(confused).tolist()
        return sorted(((row, column, int(confused[row, column])) for row, column in cells), key=lambda pair: -pair[2])

    @cached_property
    def probability(self) -> NDArray[np.float64]:
        """The probability of the class predicted, `[N]`."""
        highest: NDArray[np.float64] = self.tested.probabilities.max(axis=1)
        return highest

    def looked_for(self, row: int) -> int:
        """The class for which an image is searched."""
        return int(self.tested.classes[row])

    @cached_property
    def certain_mistakes(self) -> list[int]:
        """Rows of the predictions that are wrong, the most probable first."""
        return self._in_order(~self.tested.is_right, -self.probability)

    @cached_property
    def uncertain_hits(self) -> list[int]:
        """Rows of the predictions that are right, the least probable first."""
        return self._in_order(self.tested.is_right, self.probability)

    def examples(self, label: int, predicted: int) -> list[int]:
        """Rows of the predictions of a class for images of another, the most probable first."""
        rows = (self.tested.labels == label) & (self.tested.classes == predicted)
        return self._in_order(rows, -self.tested.probabilities[:, predicted])

    @staticmethod
    def _in_order(chosen: NDArray[np.bool_], key: NDArray[np.float64]) -> list[int]:
        rows = np.flatnonzero(chosen)
        order: list[int] = rows[np.argsort(key[rows], kind="stable")].tolist()
        return order

    def caption(self, row: int) -> list[str]:
        """The lines under an image."""
        names, shares = self.tested.class_names, self.tested.probabilities[row]
        label, predicted = int(self.tested.labels[row]), int(self.tested.classes[row])
        if label == predicted:
            return [f"{names[label]}, {shares[label]:.1%}", self.tested.names[row]]
        known = ", ".join(f"{name} {each[row]}" for name, each in self.tested.carried.items() if each[row])
        lines = [f"{names[predicted]}, {shares[predicted]:.1%}", f"is {names[label]}, {shares[label]:.1%}"]
        return [*lines, self.tested.names[row], *([escape_name(known[:LONGEST])] if known else [])]

    def as_json(self) -> dict[str, Any]:
        """All figures, in plain types."""
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
            "loss": self.calibration["as it is"].loss,
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
                **{
                    name.replace(" ", "_").replace("-", "_"): {"ece": each.ece, **asdict(each)}
                    for name, each in self.calibration.items()
                },
            },
        }
