"""What a network says of each image of a split, in memory and as a table.

Shapes: `N` images of `C` channels, `H` rows and `W` columns; `K` classes.
"""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from core.durable_file import replacing
from core.names import distinct_names, escape_name
from datamodules.base import ImageDataModule
from datamodules.batching.randomness import EVALUATION, own_generators, random_key, seed_generators
from datamodules.loading.progress import progress
from models.classifier import Classifier

MOST_COLUMNS = 20  # classes up to which the table has the probability of each

TOP = 5  # most probable classes in the table where there are more


@dataclass(frozen=True)
class Predictions:
    """What a network says.

    Args:
        class_names: `K` names.
        names: The path of each image in the source's folder, or its split and place there, as in `test[123]`.
        places: The images' places in the pack, int64 `[N]`.
        labels: int64 `[N]`.
        logits: float32 `[N, K]`.
    """

    class_names: list[str]
    names: list[str]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """`[N, K]`."""
        return probabilities_of(self.logits)

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """The classes predicted, int64 `[N]`."""
        found: NDArray[np.int64] = self.logits.argmax(axis=1)
        return found

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Images by label and class predicted, int64 `[K, K]`."""
        count = len(self.class_names)
        return np.bincount(self.labels * count + self.classes, minlength=count**2).reshape(count, count)


def probabilities_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax of logits float32 `[N, K]`, in double precision, float64 `[N, K]`."""
    found: NDArray[np.float64] = softmax(logits.astype(np.float64), axis=1)
    return found


@torch.no_grad()
def predict_split(classifier: Classifier, data: ImageDataModule, split: str) -> Predictions:
    """Let a network say what it sees, image by image, as it does in `scripts/train.py test`."""
    assert data.pack is not None, "setup comes before"
    places = data.splits[split]
    parts, labels, own = [], [], own_generators([classifier])
    with progress(f"Predicting {split}", len(places)) as advance:
        for number, (images, some) in enumerate(data.images_in_order(split, data.batch_size)):
            seed_generators(random_key(data.seed, EVALUATION, number, 0), classifier.device, own)
            batch, _ = data.transform((images.to(classifier.device), some), training=False)
            parts.append(classifier.predict_logits(batch).float().cpu())
            labels.append(some)
            advance(len(some))
    names = [data.pack.name(place) for place in places.tolist()]
    columns = (torch.cat(column).numpy() for column in (labels, parts))
    return Predictions(list(data.class_names), names, places.numpy(), *columns)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a row for each image, whole or not at all.

    Columns are image, label, prediction and its probability; then the probability of each class or, of more than 20,
    the five most probable with theirs.
    """
    names = distinct_names(predictions.class_names)
    probabilities = predictions.probabilities
    wide = len(names) <= MOST_COLUMNS
    if wide:
        heading = [f"probability of {name}" for name in names]
    else:
        heading = [f"{what} {number}" for number in range(1, TOP + 1) for what in ("class", "probability")]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "prediction", "probability", *heading])
        for name, label, row, best, predicted in zip(
            predictions.names, predictions.labels, probabilities, order, predictions.classes, strict=True
        ):
            more = row if wide else [item for place in best for item in (names[place], row[place])]
            cells = [escape_name(name), names[label], names[predicted], row[predicted], *more]
            writer.writerow([cell if isinstance(cell, str) else f"{cell:.6f}" for cell in cells])
