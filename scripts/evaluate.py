"""A page of what a network does well and badly, on images that it was not trained on.

    python scripts/evaluate.py CHECKPOINT [--output FOLDER] [--split test] [--images 24] [--config FILE] [--data...]

CHECKPOINT is a file or a run's folder; data are those of the run unless flags of scripts/train.py about data say
otherwise. Writes `evaluation.html`, which is one file and loads nothing, `evaluation.json` and `predictions.csv`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from callbacks.tensorboard.confusion_matrix import COLOURS, MOST_CLASSES, SHADES
from callbacks.tensorboard.image_grid import as_rgb, picture
from core.durable_file import replace_file
from core.user_error import UserError
from datamodules.base import ImageDataModule
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint
from scripts.command.boundary import TRUST, mistakes_in_one_sentence
from scripts.command.expansion import to_path
from scripts.command.number_of_images import number_of_images
from scripts.command.silence import silence_libraries
from scripts.evaluation.evaluation_page import ShownImage, class_rows, confusion_matrix, reliability_diagram
from scripts.inference.layers import grad_cam, last_maps
from scripts.inference.predictions import Predictions, predict_split, write_predictions
from scripts.inference.trained import autocast_context, data_of, find_checkpoint, load_trained, run_of
from scripts.report.chart import line_chart
from scripts.report.page import embedded, write_page
from scripts.report.run_curves import Curves, read_curves
from scripts.uncertainty.calibration import BINS, Reliability, fit_temperature, reliability
from scripts.uncertainty.intervals import CONFIDENCE, Interval, class_figures, class_intervals, wilson

PAIRS = 10  # most confused pairs of classes that are shown

PICTURES_OF_A_PAIR = 5  # images that are shown of each

SMALLEST_SIDE = 96  # pixels that a picture with what the network looked at has at least

FIGURES = ("precision", "recall", "f1")  # of each class


@dataclass(frozen=True)
class Evaluation:
    """A network's predictions on a split, and what follows from them.

    Args:
        checkpoint: The file.
        classifier: What is in it.
        data: The data.
        split: What is looked at.
        tested: The predictions on it.
        validated: Those on the validation split, for the temperature.
    """

    checkpoint: Path
    classifier: Classifier
    data: ImageDataModule
    split: str
    tested: Predictions
    validated: Predictions

    @cached_property
    def right(self) -> int:
        """Images whose prediction is their label."""
        return int((self.tested.classes == self.tested.labels).sum())

    @cached_property
    def accuracy(self) -> float:
        """Share of images that are right."""
        return self.right / len(self.tested)

    @cached_property
    def interval(self) -> Interval:
        """Of the accuracy."""
        return wilson(self.right, len(self.tested))

    @cached_property
    def top5_accuracy(self) -> float | None:
        """Share of images whose label is among the five most probable classes, where there are more than ten."""
        if len(self.tested.class_names) <= 10:
            return None
        best = np.argpartition(-self.tested.logits, 5, axis=1)[:, :5]
        return float((best == self.tested.labels[:, None]).any(axis=1).mean())

    @property
    def is_shown_by_class(self) -> bool:
        """Whether there are few enough classes to draw or list all of them."""
        return len(self.tested.class_names) <= MOST_CLASSES

    @cached_property
    def class_figures(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Precision, recall and F1, `[3, K]`."""
        return class_figures(self.tested.confusion)

    @cached_property
    def class_intervals(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Their ends, `[2, 3, K]`."""
        return class_intervals(self.tested.confusion)

    @cached_property
    def temperature(self) -> float | None:
        """Fitted on the validation split; None if that has no mistake."""
        return fit_temperature(self.validated.logits, self.validated.labels)

    @cached_property
    def calibration(self) -> dict[str, Reliability]:
        """As it is, and at that temperature."""
        kinds = {"as it is": 1.0} | ({"temperature-scaled": self.temperature} if self.temperature else {})
        return {
            name: reliability(self.tested.logits, self.tested.labels, temperature)
            for name, temperature in kinds.items()
        }

    @cached_property
    def data_changes(self) -> str:
        """In how far the data are not those of training."""
        return self.data.changes_since(read_checkpoint(self.checkpoint).get("data_images"))

    @cached_property
    def fitted_on_the_same(self) -> bool:
        """Whether the temperature was fitted on the images that it is judged on."""
        return bool(np.isin(self.tested.places, self.validated.places).any())

    @cached_property
    def pairs(self) -> list[tuple[int, int, int]]:
        """Label, prediction and images of each two classes that were confused, the most frequent first."""
        cells = np.argwhere(self.tested.confusion)
        labels, taken = cells[cells[:, 0] != cells[:, 1]].T
        found = zip(labels.tolist(), taken.tolist(), self.tested.confusion[labels, taken].tolist(), strict=True)
        return sorted(found, key=lambda pair: -pair[2])

    @cached_property
    def certain_mistakes(self) -> list[int]:
        """Rows of the predictions that are wrong, the most probable first."""
        wrong = np.flatnonzero(self.tested.classes != self.tested.labels)
        order: list[int] = wrong[np.argsort(-self._probability[wrong], kind="stable")].tolist()
        return order

    @cached_property
    def uncertain_hits(self) -> list[int]:
        """Rows of the predictions that are right, the least probable first."""
        hits = np.flatnonzero(self.tested.classes == self.tested.labels)
        order: list[int] = hits[np.argsort(self._probability[hits], kind="stable")].tolist()
        return order

    @cached_property
    def _probability(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        best: np.ndarray[Any, np.dtype[np.float64]] = self.tested.probabilities.max(axis=1)
        return best

    @cached_property
    def curves(self) -> Curves:
        """Loss and accuracy of each split by epoch, as the run has logged them; empty if it has not."""
        run = run_of(self.checkpoint)
        return read_curves(run / "metrics.csv") if run else {}

    def described(self, row: int) -> list[str]:
        """What is to be read under an image."""
        names = self.tested.class_names
        label, predicted = names[self.tested.labels[row]], names[self.tested.classes[row]]
        share = f"{self._probability[row]:.1%}"
        if label == predicted:
            return [f"{label}, {share}", self.tested.names[row]]
        own = f"{self.tested.probabilities[row, self.tested.labels[row]]:.1%}"
        return [f"{predicted}, {share}", f"is {label}, {own}", self.tested.names[row]]

    def as_json(self) -> dict[str, Any]:
        """All figures, in plain types."""
        names = self.tested.class_names

        def known(value: float) -> float | None:
            return None if np.isnan(value) else float(value)

        return {
            "checkpoint": str(self.checkpoint),
            "data": type(self.data).__name__,
            "data_fingerprint": self.data.data_fingerprint,
            "data_changes": self.data_changes,
            "split": self.split,
            "images": len(self.tested),
            "right": self.right,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.interval),
            "confidence": CONFIDENCE,
            "top5_accuracy": self.top5_accuracy,
            "loss": self.calibration["as it is"].loss,
            "class_names": names,
            "classes": {
                name: {
                    "images": int(self.tested.confusion[label].sum()),
                    **{kind: known(self.class_figures[n, label]) for n, kind in enumerate(FIGURES)},
                    **{
                        f"{kind}_interval": [known(end) for end in self.class_intervals[:, n, label]]
                        for n, kind in enumerate(FIGURES)
                    },
                }
                for label, name in enumerate(names)
            },
            "confusion": self.tested.confusion.tolist() if self.is_shown_by_class else None,
            "confused_pairs": [
                {"label": names[label], "prediction": names[taken], "images": count}
                for label, taken, count in self.pairs
            ],
            "calibration": {
                "temperature": self.temperature,
                "fitted_on": "val",
                "fitted_on_the_same_images": self.fitted_on_the_same,
                "bins": BINS,
                **{
                    name.replace(" ", "_").replace("-", "_"): {
                        "ece": found.ece,
                        "loss": found.loss,
                        "low": found.low,
                        "images": found.images,
                        "probability": found.probability,
                        "accuracy": found.accuracy,
                    }
                    for name, found in self.calibration.items()
                },
            },
        }


class Pictures:
    """Images of a split, with what the network looked at.

    Args:
        evaluation: What was predicted of them.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._data = evaluation.data
        self._device = evaluation.classifier.device
        first = self._normalised([0]) if len(evaluation.tested) else None
        network = evaluation.classifier.network
        self.layer = last_maps(network, evaluation.classifier.to_memory_format(first)) if first is not None else None
        """The layer that is looked into, if the network has one that can be."""

    def _images(self, rows: Sequence[int]) -> Tensor:
        """uint8 `[B, C, H, W]`."""
        assert self._data.pack is not None, "setup comes before"
        return self._data.pack[torch.from_numpy(self._evaluation.tested.places[list(rows)])][0]

    def _normalised(self, rows: Sequence[int]) -> Tensor:
        images = self._images(rows).to(self._device)
        return self._data.transform((images, torch.zeros(len(images))), training=False)[0]

    def plain(self, rows: Sequence[int]) -> list[ShownImage]:
        """The images with their captions."""
        if not rows:
            return []
        return [
            ShownImage(embedded(picture(image)), self._evaluation.described(row))
            for row, image in zip(rows, as_rgb(self._images(rows)), strict=True)
        ]

    def looked_into(self, rows: Sequence[int]) -> list[ShownImage]:
        """The images, each beside what spoke for the class predicted (Grad-CAM), with their captions."""
        if self.layer is None or not rows:
            return self.plain(rows)
        classifier = self._evaluation.classifier
        shown = []
        for start in range(0, len(rows), size := max(1, self._data.batch_size)):
            some = list(rows[start : start + size])
            classes = torch.from_numpy(self._evaluation.tested.classes[some]).to(self._device)
            images = classifier.to_memory_format(self._normalised(some))
            maps = grad_cam(classifier.network, self.layer, images, classes).cpu()
            for row, image, seen in zip(some, as_rgb(self._images(some)), maps, strict=True):
                plain = picture(image)
                shown.append(
                    ShownImage(embedded(plain), self._evaluation.described(row), embedded(laid_over(plain, seen)))
                )
        return shown


def laid_over(image: Image.Image, seen: Tensor) -> Image.Image:
    """Lay a map over an image in grey levels.

    Args:
        image: RGB, H rows and W columns.
        seen: float32 `[H, W]` in [0, 1].

    Returns:
        RGB; small images are enlarged.
    """
    factor = -(-SMALLEST_SIDE // max(image.size))
    size = (image.width * factor, image.height * factor)
    levels = Image.fromarray(seen.numpy()).resize(size, Image.Resampling.BILINEAR)
    colours = colormaps["inferno"](np.asarray(levels).clip(0, 1))[..., :3]
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.NEAREST))[..., None] / 255
    return Image.fromarray(((0.4 * grey + 0.6 * colours) * 255).round().astype(np.uint8))


def page_values(found: Evaluation, most_images: int) -> dict[str, Any]:
    """What `evaluation.html` shows."""
    tested, pictures = found.tested, Pictures(found)
    names, network, data = tested.class_names, found.classifier.network, type(found.data).__name__
    by_class = found.is_shown_by_class
    calibration = found.calibration["as it is"]
    top5 = [] if found.top5_accuracy is None else [("label among the five most probable", f"{found.top5_accuracy:.2%}")]
    return {
        "title": f"{type(network).__name__} on {data}",
        "found": found,
        "images": len(tested),
        "confidence": CONFIDENCE,
        "facts": [
            ("checkpoint", str(found.checkpoint)),
            ("network", f"{type(network).__name__}, {found.classifier.num_parameters:,} parameters"),
            ("data", f"{data}, {len(names)} classes"),
            ("right", f"{found.right:,} of {len(tested):,}"),
            *top5,
            ("loss (cross-entropy)", f"{calibration.loss:.4f}"),
            ("calibration error (ECE)", f"{calibration.ece:.4f}"),
        ],
        "charts": [line_chart(splits, "epoch", figure) for figure, splits in found.curves.items()],
        "colours": COLOURS,
        "shades": ", ".join(f"{share:.1%}" for share in SHADES),
        "matrix": confusion_matrix(tested.confusion, names) if by_class else None,
        "pairs": _pairs(found, pictures),
        "layer": pictures.layer,
        "mistakes": pictures.looked_into(found.certain_mistakes[:most_images]),
        "hits": pictures.plain(found.uncertain_hits[:most_images]),
        "diagrams": [reliability_diagram(each, 1 / BINS, name) for name, each in found.calibration.items()],
        "classes": list(class_rows(names, tested.confusion, found.class_figures, found.class_intervals))
        if by_class
        else None,
        "most_classes": MOST_CLASSES,
    }


def _pairs(found: Evaluation, pictures: Pictures) -> Iterator[tuple[str, str, int, int, list[ShownImage]]]:
    """Label, prediction, how many of how many, and the most probable of them."""
    tested = found.tested
    names = tested.class_names
    for label, taken, count in found.pairs[:PAIRS]:
        rows = np.flatnonzero((tested.labels == label) & (tested.classes == taken))
        best = rows[np.argsort(-tested.probabilities[rows, taken], kind="stable")][:PICTURES_OF_A_PAIR]
        total = int(tested.confusion[label].sum())
        yield names[label], names[taken], count, total, pictures.plain(best.tolist())


def evaluate(checkpoint: Path, flags: Sequence[str], split: str, output: Path | None, images: int) -> Evaluation:
    """Predict, and write page, figures and table."""
    silence_libraries()
    checkpoint = find_checkpoint(checkpoint)
    classifier = load_trained(checkpoint)
    folder = output or (run_of(checkpoint) or checkpoint.parent) / "evaluation"
    data = data_of(checkpoint, classifier, flags)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with autocast_context(classifier, checkpoint):
            tested = predict_split(classifier, data, split)
            validated = tested if split == "val" else predict_split(classifier, data, "val")
        found = Evaluation(checkpoint, classifier, data, split, tested, validated)
        write_predictions(folder / "predictions.csv", tested)
        replace_file(folder / "evaluation.json", json.dumps(found.as_json(), indent=1) + "\n")
        write_page(folder / "evaluation.html", "evaluation/evaluation.html", **page_values(found, images))
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}; choose another folder with "
            "--output."
        ) from error
    low, high = found.interval
    print(f"accuracy     {found.accuracy:.4f} ({CONFIDENCE:.0%} interval {low:.4f} to {high:.4f})")
    print(f"page         {folder / 'evaluation.html'}")
    print(f"figures      {folder / 'evaluation.json'}")
    print(f"predictions  {folder / 'predictions.csv'}")
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[TRUST],
    )
    parser.add_argument("checkpoint", type=to_path, metavar="CHECKPOINT", help="a checkpoint, or the folder of a run")
    parser.add_argument("--output", type=to_path, help="the folder of what is written; by default in that of the run")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="test if absent")
    parser.add_argument("--images", type=number_of_images, default=24, help="pictures in each part; 24 if absent")
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
        evaluate(options.checkpoint, flags, options.split, options.output, options.images)
    sys.exit(0)


if __name__ == "__main__":
    main()
