"""The table of predictions that `scripts/predict.py` and `scripts/evaluate.py` write: its columns and rows.

Shapes: `N` images, `K` classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from core.names import distinct_names, escape_name, label_name

NO_FINITE_LOGITS = "the network gives numbers that are not finite"

Row = dict[str, str | float | None]  # the value of each column; None if an image has no prediction or no error


@dataclass(frozen=True)
class PredictionTable:
    """Turns logits into rows; a number has the fewest digits that identify its float32."""

    class_names: Sequence[str]
    top: int = 0  # number of most probable classes that have columns, with their probabilities
    probabilities: bool = False  # add a column for the probability of each class
    logits: bool = False  # add a column for the logit of each class
    # Multi-label: a label is predicted above its threshold, `[K]`, or `[N, K]` for a threshold per row. Else empty.
    thresholds: Sequence[float] | NDArray[np.float64] = ()

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns in their order."""
        columns, names = ["path", "prediction", "probability", "error"], distinct_names(self.class_names)
        for number in range(1, self.top + 1):
            columns += [f"class {number}", f"probability {number}"]
        columns += [f"probability of {name}" for name in names if self.probabilities]
        return columns + [f"logit of {name}" for name in names if self.logits]

    def rows(
        self,
        paths: Sequence[str],
        logits: NDArray[np.float32],
        probabilities: NDArray[np.float64],
        errors: Mapping[int, str] | None = None,
    ) -> list[Row]:
        """Make a row for each image from logits and probabilities, `[N, K]`; `errors` are messages by row number."""
        names, rows = distinct_names(self.class_names), list[Row]()
        thresholds = np.broadcast_to(self.thresholds, probabilities.shape) if len(self.thresholds) else None
        images = zip(paths, logits, probabilities, strict=True)
        for number, (path, row_logits, row_probabilities) in enumerate(images):
            row = dict.fromkeys(self.columns) | {"path": escape_name(path)}
            rows.append(row)
            error = (errors or {}).get(number)
            if not error and not np.isfinite(row_logits).all():
                error = NO_FINITE_LOGITS
            if error:
                row["error"] = escape_name(error)
                continue
            label = row_logits.argmax()
            predicted = label if thresholds is None else row_probabilities > thresholds[number]
            values: list[str | float | None] = [label_name(predicted, names), *_short(row_probabilities[[label]]), None]
            top_labels = np.argsort(-row_probabilities, kind="stable")[: self.top]
            for top_label, probability in zip(top_labels, _short(row_probabilities[top_labels]), strict=True):
                values += [names[top_label], probability]
            values += _short(row_probabilities) if self.probabilities else []
            values += _short(row_logits) if self.logits else []
            row.update(zip(self.columns[1:], values, strict=True))
        return rows


def _short(numbers: NDArray[np.floating]) -> list[float]:
    return list(map(float, numbers.astype(np.float32).astype(str)))
