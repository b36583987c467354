"""The values of an evaluation's page, which `evaluation.html` writes.

Shapes: `N` images, `K` classes.
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

PAIRS = 10  # most confused pairs of classes that are shown
PICTURES_OF_A_PAIR = 5  # images that are shown of each
SMALLEST_SIDE = 96  # pixels that an image with a map over it has at least


def page_values(evaluation: Evaluation, most_images: int) -> dict[str, Any]:
    """The values that `evaluation.html` shows."""
    trained, tested, mean = evaluation.trained, evaluation.tested, evaluation.over_folds
    names, network, data = tested.class_names, type(trained.network).__name__, type(evaluation.data).__name__
    images, run, top5 = evaluation.class_numbers["images"], run_of(trained.path), evaluation.top5_accuracy
    layer = last_maps(trained.network, trained.normalize(image_of(evaluation, 0)))
    curves = read_curves(run / "metrics.csv") if run and not mean else {}
    by_figure = {
        figure: {name: points for name, points in curves.items() if name.endswith(figure)}
        for figure in ("loss", "accuracy")
    }
    figures = {
        **{name.replace("_", " ").replace("f1", "F1"): value for name, value in evaluation.summary.items()},
        "loss (cross-entropy)": evaluation.calibration["as it is"].loss,
        "calibration error (ECE)": evaluation.calibration["as it is"].ece,
        **({} if top5 is None else {"label among the five most probable": top5}),
        **evaluation.metrics,
    }
    parameters = sum(parameter.numel() for parameter in trained.network.parameters())
    return {
        "title": f"{network} on {data}",
        "evaluation": evaluation,
        "images": len(tested),
        "facts": [
            ("checkpoint", f"of {len(evaluation.folds)} runs, each tested on its fold" if mean else str(trained.path)),
            ("network", f"{network}, {parameters:,} parameters"),
            ("data", f"{data}, {len(names)} classes"),
            ("right", f"{tested.is_right.sum():,} of {len(tested):,}"),
            *((name, f"{value:.4f}") for name, value in figures.items()),
        ],
        "fold_note": mean and f"Accuracy of one network: {mean.shown()}. {caption([mean])}",
        "charts": [line_chart(of, "epoch", name) for name, of in by_figure.items() if of],
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
    }


def confusion_matrix(
    confusion: NDArray[np.int64], class_names: Sequence[str], totals: NDArray[np.int64]
) -> dict[str, Any]:
    """The picture of a confusion matrix and, for a script, what to say of the cell under the pointer."""
    drawn = confusion_picture(confusion, class_names, totals)
    cells = [[int(row), int(column), int(confusion[row, column])] for row, column in np.argwhere(confusion)]
    counts = {"names": list(map(escape_name, class_names)), "cells": cells, "totals": totals.tolist()}
    return {
        "picture": embedded(drawn.quantize(), side=2 * max(drawn.size)),
        "is_small": len(class_names) <= MOST_NUMBERED,
        "counts": json.dumps(counts | drawn.info),
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


def image_of(evaluation: Evaluation, row: int) -> Tensor:
    """The image of a row, uint8 or uint16 `[1, C, H, W]`."""
    assert evaluation.data.pack is not None, "setup comes before"
    return evaluation.data.pack[torch.from_numpy(evaluation.tested.places[[row]])][0]


def shown_image(evaluation: Evaluation, row: int, layer: str | None = None) -> dict[str, Any]:
    """An image with its caption and, if a layer is given, the evidence for the class that is looked for beside it."""
    image, seen = image_of(evaluation, row), None
    plain = picture(as_rgb(image)[0])
    if layer is not None:
        # With folds, the network that predicted the image; with several seeds, that of the first.
        fold = int(evaluation.tested.carried["fold"][row]) if evaluation.folds else 0
        trained = evaluation.folds[fold].trained if evaluation.folds else evaluation.trained
        classes = torch.tensor([evaluation.looked_for(row)], device=trained.device)
        (evidence,) = grad_cam(trained.network, layer, trained.normalize(image), classes).cpu()
        seen = embedded(laid_over(plain, evidence))
    return {"picture": embedded(plain), "caption": evaluation.caption(row), "seen": seen}


def laid_over(image: Image.Image, seen: Tensor) -> Image.Image:
    """Lay a map in [0, 1] over an RGB image in grey levels; small images are enlarged."""
    factor = -(-SMALLEST_SIDE // max(image.size))
    size = (image.width * factor, image.height * factor)
    levels = Image.fromarray(seen.numpy()).resize(size, Image.Resampling.BILINEAR)
    colours = colormaps["inferno"](np.asarray(levels).clip(0, 1))[..., :3]
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.NEAREST))[..., None] / 255
    return Image.fromarray(((0.4 * grey + 0.6 * colours) * 255).round().astype(np.uint8))
