"""What a network predicts for each image of a split.

Shapes: `N` images of `C` channels, `H` rows and `W` columns; `K` classes.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.batching.randomness import EVALUATION, own_generators, random_key, seed_generators
from datamodules.loading.progress import progress
from scripts.inference.trained_network import TrainedNetwork

if TYPE_CHECKING:  # Lightning takes seconds to import
    from datamodules.base import ImageDataModule


@dataclass(frozen=True)
class Predictions:
    """A network's predictions."""

    class_names: list[str]  # `K` names
    names: list[str]  # the path of each image in the source's folder, or its split and place, as in `test[123]`
    places: NDArray[np.int64]  # the images' places in the pack, `[N]`
    labels: NDArray[np.int64]  # `[N]`; of several labels per image uint8 `[N, K]`, 0 and 1
    logits: NDArray[np.float32]  # `[N, K]`
    # What the source says besides, `N` texts in each column
    carried: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """`[N, K]`."""
        return probabilities_of(self.logits, self.is_multi_label)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels or none."""
        return self.labels.ndim == 2

    @property
    def answers(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Logits and labels; of several labels per image, those of whether it has each, `[N * K, 2]` and `[N * K]`."""
        if not self.is_multi_label:
            return self.logits, self.labels
        pairs = np.stack([np.zeros_like(self.logits), self.logits], axis=2)
        return pairs.reshape(-1, 2), self.labels.ravel().astype(np.int64)

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """The classes predicted, int64 `[N]`; of several labels, whether each is more probable than not, `[N, K]`."""
        if self.is_multi_label:
            return (self.logits > 0).astype(np.int64)
        classes: NDArray[np.int64] = self.logits.argmax(axis=1)
        return classes

    @cached_property
    def is_right(self) -> NDArray[np.bool_]:
        """Whether the class predicted is the label, or all labels are right, bool `[N]`."""
        equal = self.classes == self.labels
        is_right: NDArray[np.bool_] = np.logical_and.reduce(equal, axis=1) if self.is_multi_label else equal
        return is_right

    @cached_property
    def accuracy(self) -> float:
        """Share of images that are right; of several labels per image, share of labels."""
        return float((self.classes == self.labels).mean())


def probabilities_of(logits: NDArray[np.float32], multi_label: bool = False) -> NDArray[np.float64]:
    """Softmax, of several labels per image sigmoid, of logits float32 `[N, K]`, in double precision."""
    from scipy.special import expit, softmax

    with np.errstate(invalid="ignore"):  # of logits that are not finite
        exact = logits.astype(np.float64)
        probabilities: NDArray[np.float64] = expit(exact) if multi_label else softmax(exact, axis=1)
    return probabilities


def predict_split(trained: TrainedNetwork, data: "ImageDataModule", split: str) -> Predictions:
    """Predict a split, batch by batch as `scripts/train.py test` does."""
    assert data.pack is not None, "setup comes before"
    places = data.splits[split]
    all_labels, all_logits, own = [], [], own_generators([trained.network])
    with trained.autocast_context(), progress(f"Predicting {split}", len(places)) as advance:
        for number, (images, labels) in enumerate(data.images_in_order(split, data.batch_size)):
            seed_generators(random_key(data.seed, EVALUATION, number, 0), trained.device, own)
            all_logits.append(trained.logits(images))
            all_labels.append(labels)
            advance(len(labels))
    names = [data.pack.name(place) for place in places.tolist()]
    own_labels, logits = (torch.cat(parts).numpy() for parts in (all_labels, all_logits))
    carried = {name: [str(value) for value in each[places]] for name, each in data.pack.columns.items()}
    return Predictions(list(data.class_names), names, places.numpy(), own_labels, logits, carried)
