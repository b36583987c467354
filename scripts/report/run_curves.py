"""The learning curves of a run, from its `metrics.csv`."""

import csv
from math import isfinite
from pathlib import Path

from core.user_error import UserError
from scripts.report.chart import Point

Curves = dict[str, dict[str, list[Point]]]  # for each figure and split, the points by epoch


def read_curves(file: Path) -> Curves:
    """Read loss and accuracy by epoch."""
    points: dict[tuple[str, str], list[Point]] = {
        (figure, split): [] for figure in ("loss", "accuracy") for split in ("train", "val")
    }
    try:
        with file.open(newline="") as opened:
            for row in csv.DictReader(opened):  # one at a time: a long run has millions
                for (figure, split), of_split in points.items():
                    if row.get("epoch") and (value := row.get(f"{split}/{figure}")):
                        point = float(row["epoch"]), float(value)
                        of_split += [point] if all(map(isfinite, point)) else []
    except FileNotFoundError:
        return {}
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file} is damaged: {error}; remove it.") from error
    curves: Curves = {}
    for (figure, split), of_split in points.items():
        if of_split:
            curves.setdefault(figure, {})[split] = of_split
    return curves
