"""The table of predictions that `scripts/predict.py` and `scripts/evaluate.py` write: its columns and rows.

Shapes: `N` images, `K` classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.names import distinct_names, escape_name, label_name

NO_FINITE_LOGITS = "the network gives numbers that are not finite"

Row = dict[str, str | float | None]  # a value for each column; None where there is no prediction, or no error


class Column(NamedTuple):
    """A column; probabilities have six decimal places in text."""

    name: str
    kind: Literal["text", "probability", "logit"] = "text"


@dataclass(frozen=True)
class PredictionTable:
    """Makes rows of a network's logits."""

    class_names: Sequence[str]
    top: int = 0  # how many of the most probable classes have columns, with their probabilities
    probabilities: bool = False  # whether each class has a column with its probability
    logits: bool = False  # whether each class has a column with its logit
    # Of several labels per image, above which each is predicted, `[K]` or of each row `[N, K]`; else empty
    thresholds: Sequence[float] | NDArray[np.float64] = ()

    @cached_property
    def columns(self) -> list[Column]:
        """The columns in their order, the same in every format."""
        names = distinct_names(self.class_names)
        columns = [Column("path"), Column("prediction"), Column("probability", "probability"), Column("error")]
        for number in range(1, self.top + 1):
            columns += [Column(f"class {number}"), Column(f"probability {number}", "probability")]
        if self.probabilities:
            columns += [Column(f"probability of {name}", "probability") for name in names]
        if self.logits:
            columns += [Column(f"logit of {name}", "logit") for name in names]
        return columns

    def rows(
        self,
        paths: Sequence[str],
        logits: NDArray[np.float32],
        probabilities: NDArray[np.float64],
        errors: Mapping[int, str] | None = None,
    ) -> list[Row]:
        """Make a row for each image, from logits and probabilities `[N, K]` and reasons of rows without an image."""
        names = distinct_names(self.class_names)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top]
        not_finite = np.flatnonzero(~np.isfinite(logits).all(axis=1)).tolist()
        errors = dict.fromkeys(not_finite, NO_FINITE_LOGITS) | dict(errors or {})
        # The shortest text that stands for each float32; the nearest double would have twice as many digits.
        exact = logits.astype(str) if self.logits else logits[:, :0]
        thresholds = np.broadcast_to(self.thresholds, probabilities.shape) if len(self.thresholds) else ()
        rows: list[Row] = []
        for number, (path, label) in enumerate(zip(paths, logits.argmax(axis=1), strict=True)):
            shares = probabilities[number]
            error = errors.get(number)
            predicted = shares > thresholds[number] if len(thresholds) else label
            values: list[str | float | None] = [label_name(predicted, names), float(shares[label]), None]
            for place in order[number]:
                values += [names[place], float(shares[place])]
            values += shares.tolist() if self.probabilities else []
            values += map(float, exact[number])
            if error is not None:
                values = [None] * len(values)
                values[2] = escape_name(error)
            cells = zip(self.columns, [escape_name(path), *values], strict=True)
            rows.append({column.name: value for column, value in cells})
        return rows


def texts_of(row: Row, columns: Sequence[Column]) -> list[str]:
    """The cells of a row as text."""
    return [
        "" if (value := row[name]) is None else f"{value:.6f}" if kind == "probability" else str(value)
        for name, kind in columns
    ]
