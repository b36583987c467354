"""The learning curves of a run, from its `metrics.csv`."""

import csv
from math import isfinite
from pathlib import Path

from core.user_error import UserError

NAMES = "train/loss", "val/loss", "train/accuracy", "val/accuracy"

Curves = dict[str, list[tuple[float, float]]]  # the points by epoch of those that a run has


def read_curves(file: Path) -> Curves:
    """Read loss and accuracy by epoch."""
    curves: Curves = {name: [] for name in NAMES}
    try:
        with file.open(newline="") as opened:
            for row in csv.DictReader(opened):  # one at a time: a long run has millions
                for name, points in curves.items():
                    if row.get("epoch") and row.get(name):
                        point = float(row["epoch"]), float(row[name])
                        points += [point] if all(map(isfinite, point)) else []
    except FileNotFoundError:
        return {}
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file} is damaged: {error}; remove it.") from error
    return {name: points for name, points in curves.items() if points}
