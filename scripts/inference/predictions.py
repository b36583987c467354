"""The predictions of a network for a split.

Shapes: `N` images of `C` channels, `H` rows and `W` columns; `K` classes.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.batching.randomness import EVALUATION, own_generators, random_key, seed_generators
from datamodules.loading.progress import progress
from scripts.inference.trained_network import TrainedNetwork

if TYPE_CHECKING:  # Lightning takes seconds to import
    from datamodules.base import ImageDataModule


@dataclass(frozen=True)
class Predictions:
    """Logits and labels of `N` images, and metrics of them."""

    class_names: list[str]  # `K` names
    names: list[str]  # of each image: its path in the source's folder, or its split and index, such as `test[123]`
    places: NDArray[np.int64]  # indices of the images in the pack, `[N]`
    labels: NDArray[np.int64]  # `[N]`; multi-label: uint8 `[N, K]` of 0 and 1
    logits: NDArray[np.float32]  # `[N, K]`
    carried: dict[str, list[str]] = field(default_factory=dict)  # further columns of the source, `N` texts each

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax or, for multi-label data, sigmoid of the logits, `[N, K]`."""
        return probabilities_of(self.logits, self.is_multi_label)

    @property
    def is_multi_label(self) -> bool:
        """True if an image may have several labels or none."""
        return self.labels.ndim == 2

    @property
    def answers(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Logits `[N, K]` and labels `[N]`; multi-label: of `N * K` binary decisions, `[N * K, 2]` and `[N * K]`."""
        if not self.is_multi_label:
            return self.logits, self.labels
        pairs = np.stack([np.zeros_like(self.logits), self.logits], axis=2)
        return pairs.reshape(-1, 2), self.labels.ravel().astype(np.int64)

    @cached_property
    def classes(self) -> NDArray[np.int64]:
        """The predicted classes, int64 `[N]`; multi-label: 1 for labels with a probability above 0.5, `[N, K]`."""
        if self.is_multi_label:
            return (self.logits > 0).astype(np.int64)
        classes: NDArray[np.int64] = self.logits.argmax(axis=1)
        return classes

    @cached_property
    def is_right(self) -> NDArray[np.bool_]:
        """True if the predicted class is the label or, multi-label, if all `K` labels are correct; bool `[N]`."""
        equal = self.classes == self.labels
        is_right: NDArray[np.bool_] = np.logical_and.reduce(equal, axis=1) if self.is_multi_label else equal
        return is_right

    @cached_property
    def accuracy(self) -> float:
        """Fraction of images that are predicted correctly; multi-label: fraction of the `N * K` labels."""
        return float((self.classes == self.labels).mean())


def probabilities_of(logits: NDArray[np.float32], multi_label: bool = False) -> NDArray[np.float64]:
    """Compute the softmax or, for multi-label data, the sigmoid of float32 logits `[N, K]` in float64."""
    from scipy.special import expit, softmax

    logits = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # logits that are not finite become NaN without a warning
        probabilities: NDArray[np.float64] = expit(logits) if multi_label else softmax(logits, axis=1)
    return probabilities


def predict_split(trained: TrainedNetwork, data: "ImageDataModule", split: str) -> Predictions:
    """Predict a split, batch by batch as `scripts/train.py test` does."""
    assert data.pack is not None, "setup builds the pack"
    places = data.splits[split]
    labels, logits, generators = list[Tensor](), list[Tensor](), own_generators([trained.network])
    with trained.autocast_context(), progress(f"Predicting {split}", len(places)) as advance:
        for number, (batch_images, batch_labels) in enumerate(data.images_in_order(split, data.batch_size)):
            seed_generators(random_key(data.seed, EVALUATION, number, 0), trained.device, generators)
            logits.append(trained.logits(batch_images))
            labels.append(batch_labels)
            advance(len(batch_labels))
    return Predictions(
        class_names=list(data.class_names),
        names=[data.pack.name(place) for place in places.tolist()],
        places=places.numpy(),
        labels=torch.cat(labels).numpy(),
        logits=torch.cat(logits).numpy(),
        carried={name: [str(value) for value in values[places]] for name, values in data.pack.columns.items()},
    )
