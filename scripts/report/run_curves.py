"""The curves that a run has left behind in its TensorBoard files."""

import csv
from pathlib import Path

import numpy as np

from core.user_error import UserError
from scripts.report.chart import Point

Curves = dict[str, dict[str, list[Point]]]  # for each figure and split, the points by epoch


def read_curves(file: Path) -> Curves:
    """Read loss and accuracy by epoch."""
    curves: Curves = {figure: {"train": [], "val": []} for figure in ("loss", "accuracy")}
    if not file.is_file():
        return {}
    try:
        with file.open(newline="") as opened:
            for row in csv.DictReader(opened):  # one at a time: a long run has millions
                for figure, splits in curves.items():
                    for split, points in splits.items():
                        if row.get("epoch") and (value := row.get(f"{split}/{figure}")):
                            point = float(row["epoch"]), float(value)
                            points += [point] if np.isfinite(point).all() else []
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file} is damaged: {error}; remove it.") from error
    known = {figure: {split: points for split, points in splits.items() if points} for figure, splits in curves.items()}
    return {figure: splits for figure, splits in known.items() if splits}
