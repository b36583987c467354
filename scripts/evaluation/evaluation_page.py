"""Prepare the pictures, charts and facts for the page `evaluation.html`.

Shapes: an image of `C` channels, `H` rows and `W` columns.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from callbacks.tensorboard.confusion_picture import MOST_NUMBERED, SHADES, confusion_picture
from callbacks.tensorboard.image_grid import as_rgb, picture
from core.names import escape_name
from scripts.evaluation.evaluation import Evaluation
from scripts.inference.layers import grad_cam, last_maps
from scripts.inference.run_checkpoint import run_of
from scripts.report.chart import CURVES, INK, line_chart, svg
from scripts.report.page import embedded
from scripts.report.run_curves import read_curves
from scripts.uncertainty.calibration import BINS, Reliability
from scripts.uncertainty.mean import caption

PAIRS = 10  # number of confused pairs of classes on the page
PICTURES_OF_A_PAIR = 5
SMALLEST_SIDE = 96  # least longer side, in pixels, of an image with a Grad-CAM map over it


def page_values(evaluation: Evaluation, most_images: int) -> dict[str, Any]:
    """Return the values that the template needs; each part of the page shows at most `most_images` pictures."""
    trained, tested, mean = evaluation.trained, evaluation.tested, evaluation.over_folds
    names, network, data = tested.class_names, type(trained.network).__name__, type(evaluation.data).__name__
    images, run, calibration = evaluation.class_numbers["images"], run_of(trained.path), evaluation.calibration
    layer = last_maps(trained.network, trained.normalize(image_of(evaluation, 0)))
    metrics = {name.replace("_", " ").replace("f1", "F1"): value for name, value in evaluation.summary.items()}
    metrics["loss (cross-entropy)"] = calibration["as_it_is"].loss
    metrics["calibration error (ECE)"] = calibration["as_it_is"].ece
    if evaluation.top5_accuracy is not None:
        metrics["label among the five most probable"] = evaluation.top5_accuracy
    metrics |= evaluation.metrics
    parameters = sum(parameter.numel() for parameter in trained.network.parameters())
    pairs = []
    for label, predicted, count in evaluation.pairs[:PAIRS]:
        rows = evaluation.examples(label, predicted)[:PICTURES_OF_A_PAIR]
        examples = [shown_image(evaluation, row) for row in rows]
        pairs.append((names[label], names[predicted], count, int(images[label]), examples))
    curves = read_curves(run / "metrics.csv") if run and not mean else {}
    curves_by_metric = {
        metric: {name: points for name, points in curves.items() if name.endswith(metric)}
        for metric in ("loss", "accuracy")
    }
    return {
        "title": f"{network} on {data}",
        "evaluation": evaluation,
        "images": len(tested),
        "facts": [
            ("checkpoint", f"of {len(evaluation.folds)} runs, each tested on its fold" if mean else str(trained.path)),
            ("network", f"{network}, {parameters:,} parameters"),
            ("data", f"{data}, {len(names)} classes"),
            ("right", f"{tested.is_right.sum():,} of {len(tested):,}"),
            *((name, f"{value:.4f}") for name, value in metrics.items()),
        ],
        "fold_note": mean and f"Accuracy of one network: {mean.shown()}. {caption([mean])}",
        "charts": [line_chart(lines, "epoch", metric) for metric, lines in curves_by_metric.items() if lines],
        "shades": ", ".join(f"{fraction:.1%}" for fraction in SHADES),
        "matrix": confusion_matrix(evaluation.confusion, names, images) if evaluation.is_shown_by_class else None,
        "pairs": pairs,
        "layer": layer,
        "mistakes": [shown_image(evaluation, row, layer) for row in evaluation.certain_mistakes[:most_images]],
        "hits": [shown_image(evaluation, row) for row in evaluation.uncertain_hits[:most_images]],
        "diagrams": [
            (name.replace("_", " "), bins, reliability_diagram(bins, name)) for name, bins in calibration.items()
        ],
    }


def confusion_matrix(
    confusion: NDArray[np.int64], class_names: Sequence[str], totals: NDArray[np.int64]
) -> dict[str, Any]:
    """Draw a confusion matrix, and give the page's script the count of each cell as JSON."""
    drawing = confusion_picture(confusion, class_names, totals)
    cells = [[row, column, int(confusion[row, column])] for row, column in np.argwhere(confusion).tolist()]
    counts = {"names": list(map(escape_name, class_names)), "cells": cells, "totals": totals.tolist()}
    return {
        "picture": embedded(drawing.quantize(), side=2 * max(drawing.size)),
        "is_small": len(class_names) <= MOST_NUMBERED,
        "counts": json.dumps(counts | drawing.info),
    }


def reliability_diagram(bins: Reliability, title: str) -> Markup:
    """Draw the accuracy of each bin over its probability; the bars of bins with fewer images are paler."""

    def draw(figure: Figure, axes: Axes) -> None:
        bars = axes.bar(bins.low, bins.accuracy, 0.95 / BINS, align="edge", color=CURVES[0])
        for bar, images in zip(bars, bins.images, strict=True):
            bar.set_alpha(0.25 + 0.65 * (images / max(bins.images)) ** 0.5)
        axes.vlines(bins.probability, bins.accuracy, bins.probability, colors=CURVES[1], linewidth=2)
        axes.plot((0, 1), (0, 1), linestyle="--", color=INK)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the predicted class", ylabel="accuracy")

    return svg(f"calibration {title}", 3.6, draw)


def image_of(evaluation: Evaluation, row: int) -> Tensor:
    """Return a tested image as a batch of one, uint8 or uint16 `[1, C, H, W]`."""
    assert evaluation.data.pack is not None, "setup comes before"
    return evaluation.data.pack[torch.from_numpy(evaluation.tested.places[[row]])][0]


def shown_image(evaluation: Evaluation, row: int, layer: str | None = None) -> dict[str, Any]:
    """Return the picture of an image, its caption and, if a layer is given, its Grad-CAM map at that layer."""
    image, heatmap = image_of(evaluation, row), None
    plain = picture(as_rgb(image)[0])
    if layer is not None:
        trained = evaluation.trained
        if evaluation.folds:  # the network that predicted the image, of the first seed
            trained = evaluation.folds[int(evaluation.tested.carried["fold"][row])].trained
        classes = torch.tensor([evaluation.explained_class(row)], device=trained.device)
        (heat,) = grad_cam(trained.network, layer, trained.normalize(image), classes).cpu()
        heatmap = embedded(overlay(plain, heat))
    return {"picture": embedded(plain), "caption": evaluation.caption(row), "heatmap": heatmap}


def overlay(image: Image.Image, heat: Tensor) -> Image.Image:
    """Lay a map in [0, 1], `[H, W]`, over an RGB image in grey; enlarge a small image."""
    factor = -(-SMALLEST_SIDE // max(image.size))
    size = (image.width * factor, image.height * factor)
    levels = Image.fromarray(heat.numpy()).resize(size, Image.Resampling.BILINEAR)
    colours = colormaps["inferno"](np.asarray(levels).clip(0, 1))[..., :3]
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.NEAREST))[..., None] / 255
    return Image.fromarray(((0.4 * grey + 0.6 * colours) * 255).round().astype(np.uint8))
