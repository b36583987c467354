"""The values of an evaluation's page, which `evaluation.html` writes.

Shapes: `N` images, `K` classes.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from callbacks.tensorboard.confusion_matrix import MOST_CLASSES, MOST_NUMBERED, SHADES, confusion_picture
from core.names import escape_name
from scripts.evaluation.evaluation import Evaluation
from scripts.evaluation.evaluation_pictures import grad_cam_layer, shown_image
from scripts.inference.run_checkpoint import run_of
from scripts.report.chart import CURVES, INK, line_chart, svg
from scripts.report.page import embedded
from scripts.report.run_curves import read_curves
from scripts.uncertainty.calibration import BINS, Reliability
from scripts.uncertainty.intervals import CONFIDENCE
from scripts.uncertainty.mean import caption

PAIRS = 10  # most confused pairs of classes that are shown

PICTURES_OF_A_PAIR = 5  # images that are shown of each


def page_values(evaluation: Evaluation, most_images: int) -> dict[str, Any]:
    """The values that `evaluation.html` shows."""
    trained, tested, layer = evaluation.trained, evaluation.tested, grad_cam_layer(evaluation)
    names, network, data = tested.class_names, type(trained.network).__name__, type(evaluation.data).__name__
    calibration, images = evaluation.calibration["as it is"], evaluation.class_numbers["images"]
    run, top5, mean = run_of(trained.path), evaluation.top5_accuracy, evaluation.over_folds
    curves = read_curves(run / "metrics.csv") if run and not mean else {}
    return {
        "title": f"{network} on {data}",
        "evaluation": evaluation,
        "images": len(tested),
        "confidence": CONFIDENCE,
        "facts": [
            ("runs", f"{len(evaluation.folds)}, each tested on its fold")
            if mean
            else ("checkpoint", str(trained.path)),
            ("network", f"{network}, {trained.num_parameters:,} parameters"),
            ("data", f"{data}, {len(names)} classes"),
            ("right", f"{evaluation.right:,} of {len(tested):,}"),
            *([] if top5 is None else [("label among the five most probable", f"{top5:.2%}")]),
            ("loss (cross-entropy)", f"{calibration.loss:.4f}"),
            ("calibration error (ECE)", f"{calibration.ece:.4f}"),
            *((name, f"{value:.4f}") for name, value in evaluation.metrics.items()),
        ],
        "folds": [
            (f"{each.fold}", f"{each.seed}", f"{each.tested.accuracy:.4f}", str(each.trained.folder))
            for each in evaluation.folds
        ],
        "fold_note": mean and f"Accuracy of one network: {mean.shown()}. {caption([mean])}",
        "charts": [
            line_chart(of, "epoch", figure)
            for figure in ("loss", "accuracy")
            if (of := {name: points for name, points in curves.items() if name.endswith(figure)})
        ],
        "shades": ", ".join(f"{share:.1%}" for share in SHADES),
        "matrix": confusion_matrix(evaluation.confusion, names, images) if evaluation.is_shown_by_class else None,
        "pairs": [
            (
                *(names[label], names[predicted], count, int(images[label])),
                [shown_image(evaluation, row) for row in evaluation.examples(label, predicted)[:PICTURES_OF_A_PAIR]],
            )
            for label, predicted, count in evaluation.pairs[:PAIRS]
        ],
        "layer": layer,
        "mistakes": [shown_image(evaluation, row, layer) for row in evaluation.certain_mistakes[:most_images]],
        "hits": [shown_image(evaluation, row) for row in evaluation.uncertain_hits[:most_images]],
        "diagrams": [(*each, reliability_diagram(each[1], each[0])) for each in evaluation.calibration.items()],
        "most_classes": MOST_CLASSES,
    }


def confusion_matrix(
    confusion: NDArray[np.int64], class_names: Sequence[str], totals: NDArray[np.int64]
) -> dict[str, Any]:
    """The picture of a confusion matrix and, for a script, what to say of the cell under the pointer."""
    picture = confusion_picture(confusion, class_names, totals)
    cells = [[int(row), int(column), int(confusion[row, column])] for row, column in np.argwhere(confusion)]
    counts = {"names": list(map(escape_name, class_names)), "cells": cells, "totals": totals.tolist()}
    return {
        "picture": embedded(picture.quantize(), side=2 * max(picture.size)),
        "is_small": len(class_names) <= MOST_NUMBERED,
        "counts": json.dumps(counts | picture.info),
    }


def reliability_diagram(bins: Reliability, title: str) -> Markup:
    """Draw how often predictions of each probability are right; bars are paler where they are fewer."""

    def draw(figure: Figure, axes: Axes) -> None:
        bars = axes.bar(bins.low, bins.accuracy, 0.95 / BINS, align="edge", color=CURVES[0])
        for bar, images in zip(bars, bins.images, strict=True):
            bar.set_alpha(0.25 + 0.65 * (images / max(bins.images)) ** 0.5)
        axes.vlines(bins.probability, bins.accuracy, bins.probability, colors=CURVES[1], linewidth=2)
        axes.plot((0, 1), (0, 1), linestyle="--", color=INK)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the class predicted", ylabel="share that is right")

    return svg(f"calibration {title}", 3.6, draw)
