"""The learning curves of a run, from its `metrics.csv`."""

import csv
from math import isfinite
from pathlib import Path

from matplotlib.ticker import MaxNLocator
from PIL import Image

from core.user_error import UserError
from scripts.report.chart import Point
from scripts.report.figure import new_figure, picture_of

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


def curves_picture(run: Path) -> Image.Image:
    """Draw the learning curves of a run."""
    curves = read_curves(run / "metrics.csv")
    if not curves:
        raise UserError(f"{run} has no curves in metrics.csv; train with the logger callbacks.curves.CSVLogger.")
    figure = new_figure()
    figure.set_figheight(3.5)
    for axes, (name, splits) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for split, points in splits.items():
            axes.plot(*zip(*points, strict=True), marker=".", label=split)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return picture_of(figure)
