"""The table of predictions that `scripts/predict.py` and `scripts/evaluate.py` write: its columns and rows.

Shapes: `N` images, `K` classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from core.names import distinct_names, escape_name, label_name

NO_FINITE_LOGITS = "the network gives numbers that are not finite"

Row = dict[str, str | float | None]  # a value for each column; None where there is no prediction, or no error


@dataclass(frozen=True)
class PredictionTable:
    """Makes rows of a network's logits; numbers are the shortest that stand for each float32."""

    class_names: Sequence[str]
    top: int = 0  # how many of the most probable classes have columns, with their probabilities
    probabilities: bool = False  # whether each class has a column with its probability
    logits: bool = False  # whether each class has a column with its logit
    # Of several labels per image, above which each is predicted, `[K]` or of each row `[N, K]`; else empty
    thresholds: Sequence[float] | NDArray[np.float64] = ()

    @cached_property
    def columns(self) -> list[str]:
        """The columns in their order, the same in every format."""
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
        """Make a row for each image, from logits and probabilities `[N, K]` and reasons of rows without an image."""
        names, rows = distinct_names(self.class_names), list[Row]()
        thresholds = np.broadcast_to(self.thresholds, probabilities.shape) if len(self.thresholds) else None
        for number, (path, own, shares) in enumerate(zip(paths, logits, probabilities, strict=True)):
            row = dict.fromkeys(self.columns) | {"path": escape_name(path)}
            if error := (errors or {}).get(number) or ("" if np.isfinite(own).all() else NO_FINITE_LOGITS):
                rows.append(row | {"error": escape_name(error)})
                continue
            label = own.argmax()
            predicted = label if thresholds is None else shares > thresholds[number]
            values: list[str | float | None] = [
                row["path"],
                label_name(predicted, names),
                *_short(shares[[label]]),
                None,
            ]
            for place in np.argsort(-shares, kind="stable")[: self.top]:
                values += [names[place], *_short(shares[[place]])]
            values += _short(shares) if self.probabilities else []
            values += _short(own) if self.logits else []
            rows.append(dict(zip(self.columns, values, strict=True)))
        return rows


def _short(numbers: NDArray[np.floating]) -> Iterable[float]:
    return map(float, numbers.astype(np.float32).astype(str))
