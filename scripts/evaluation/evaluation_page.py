"""What the page of an evaluation draws: matrix, diagrams and classes; `evaluation.html` writes them.

Shapes: `N` images, `K` classes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from callbacks.tensorboard.confusion_matrix import MOST_NUMBERED, SHADES, shade_levels
from core.names import escape_name
from scripts.report.chart import Axes
from scripts.uncertainty.calibration import Reliability

CELL = 16  # pixels of a cell of the confusion matrix where its class names are to be read

LONGEST_NAME = 18  # letters of a class name that are written beside the confusion matrix


@dataclass(frozen=True)
class ShownImage:
    """An image with what is to be said of it.

    Args:
        picture: The image.
        caption: Lines of plain text.
        seen: Where in it the network looked, if that is known.
    """

    picture: Markup
    caption: Sequence[str]
    seen: Markup | None = None


def confusion_matrix(confusion: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, Any]:
    """Lay out how many images of each class, in rows, were taken for each class, in columns.

    The shade is the share of the row's class, by `SHADES`. Up to 20 classes each cell has its number; of any number of
    classes, the cell under the pointer or the finger is told in words.

    Args:
        confusion: int64 `[K, K]`.
        class_names: `K` names.

    Returns:
        Places and sizes in pixels, for the macro of the same name.
    """
    names = [escape_name(name) for name in class_names]
    numbered = len(names) <= MOST_NUMBERED
    cell = max(34, 9 * len(f"{confusion.max():,}") + 10) if numbered else CELL
    letter = 13 if numbered else 11
    short = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]
    widest = 0.62 * letter * max(map(len, short))
    left = round(widest) + 26
    upright = numbered and widest < cell
    top = 2 * letter + 14 if upright else left
    side = cell * len(names)
    levels = shade_levels(confusion)
    squares = {
        level: "".join(
            f"M{left + column * cell} {top + row * cell}h{cell}v{cell}h-{cell}z"
            for row, column in np.argwhere(levels == level)
        )
        for level in range(1, len(SHADES) + 2)
    }
    cells = [[int(row), int(column), int(confusion[row, column])] for row, column in np.argwhere(confusion)]
    numbers = [
        (
            "light" if levels[row, column] > len(SHADES) // 2 + 1 else "dark",
            left + round((column + 0.5) * cell),
            top + round((row + 0.5) * cell) + 4,
            f"{count:,}",
        )
        for row, column, count in cells
        if numbered
    ]
    totals = confusion.sum(axis=1).tolist()
    return {
        "numbered": numbered,
        "upright": upright,
        "letter": letter,
        "left": left,
        "top": top,
        "side": side,
        "width": left + side + 8,
        "height": top + side + 8,
        "squares": [(level, path) for level, path in squares.items() if path],
        "names": [(name, (place + 0.5) * cell) for place, name in enumerate(short)],
        "numbers": numbers,
        "counts": json.dumps(
            {"names": names, "totals": totals, "cells": cells, "left": left, "top": top, "cell": cell}
        ),
    }


def reliability_diagram(found: Reliability, width: float, title: str) -> dict[str, Any]:
    """Lay out how often predictions of each probability are right."""
    axes = Axes((0, 1), (0, 1), "probability of the class predicted", "share that is right")
    bars = []
    for low, images, probability, accuracy in zip(
        found.low, found.images, found.probability, found.accuracy, strict=True
    ):
        (x, y), (end, _) = axes.place(low, accuracy), axes.place(low + width, 0)
        middle, ideal = axes.place(probability, probability)
        bars.append(
            {
                "x": x + 1,
                "y": y,
                "width": round(end - x - 2, 1),
                "height": round(axes.bottom - y, 1),
                "middle": middle,
                "ideal": ideal,
                "opacity": f"{0.25 + 0.65 * (images / max(found.images)) ** 0.5:.2f}",
                "title": f"{images:,} images, probability {probability:.3f}, right {accuracy:.3f}",
            }
        )
    return {"title": title, "ece": found.ece, "loss": found.loss, "axes": axes, "bars": bars}


def class_rows(
    class_names: Sequence[str],
    confusion: NDArray[np.int64],
    measured: NDArray[np.float64],
    intervals: NDArray[np.float64],
) -> Iterator[dict[str, Any]]:
    """List precision, recall and F1 of each class with their intervals, for `class_table`.

    Args:
        class_names: `K` names.
        confusion: int64 `[K, K]`.
        measured: Precision, recall and F1, float64 `[3, K]`.
        intervals: Their low and high ends, float64 `[2, 3, K]`.
    """
    ends = np.concatenate([measured[None], intervals])
    for label, name in enumerate(class_names):
        numbers = int(confusion[label].sum()), int(confusion[:, label].sum())
        yield {"name": name, "numbers": numbers, "figures": ends[:, :, label].T.tolist()}
