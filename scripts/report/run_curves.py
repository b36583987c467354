"""Read the learning curves of a run from its `metrics.csv`."""

import csv
from math import isfinite
from pathlib import Path

from core.user_error import UserError

NAMES = "train/loss", "val/loss", "train/accuracy", "val/accuracy"

Curves = dict[str, list[tuple[float, float]]]  # for each metric of `NAMES` that the run has: (epoch, value)


def read_curves(file: Path) -> Curves:
    """Return the finite points of loss and accuracy; none if there is no file."""
    curves: Curves = {name: [] for name in NAMES}
    try:
        with file.open(newline="") as opened:
            for row in csv.DictReader(opened):  # row by row, because a long run has millions
                for name, points in curves.items():
                    if row.get("epoch") and row.get(name):
                        epoch, value = float(row["epoch"]), float(row[name])
                        if isfinite(epoch) and isfinite(value):
                            points.append((epoch, value))
    except FileNotFoundError:
        return {}
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file} is damaged: {error}; remove it.") from error
    return {name: points for name, points in curves.items() if points}
