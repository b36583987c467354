"""A checkpoint as a Python function from images to predictions.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.names import escape_name, label_name
from core.user_error import UserError
from datamodules.decoding.image_file import UnreadableImageError, pixels_of, unreadable_if_it_fails
from datamodules.decoding.stored_numbers import image_numbers
from scripts.command.silence import silence_libraries
from scripts.inference.predictions import probabilities_of
from scripts.inference.trained_network import TrainedNetwork

# A path, a Pillow image, an array `[H, W]` or `[H, W, C]`, or a tensor `[C, H, W]`; uint8, or the dtype of the run's
# files.
Picture = str | Path | Image.Image | NDArray[Any] | Tensor


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Args:
        class_name: The most probable class; multi-label: the labels above their thresholds, joined by `;`.
        probability: The probability of the most probable class, in [0, 1].
        probabilities: The probability of each class, in the order of the labels.
        logits: float32 `[K]`.
    """

    class_name: str
    probability: float
    probabilities: dict[str, float]
    logits: NDArray[np.float32]

    def _repr_html_(self) -> str:
        """Show the five most probable classes in a notebook."""
        top5 = sorted(self.probabilities.items(), key=lambda item: -item[1])[:5]
        return f"<table>{''.join(f'<tr><td>{escape(name)}<td>{value:.1%}' for name, value in top5)}</table>"


class ImageClassifier:
    """Prepares images as in training, and predicts their classes.

    It computes in the run's precision: the same images in the same batches have the probabilities that
    `scripts/evaluate.py` writes.

    Args:
        checkpoint: A checkpoint, or a run's folder.

    Raises:
        UserError: If the checkpoint is unreadable or lacks class names or preprocessing.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        silence_libraries()
        self.trained = TrainedNetwork(checkpoint)
        self.class_names = self.trained.class_names
        """`K` names, in the order of the labels."""

    def __call__(self, images: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """Predict the classes of images.

        Args:
            images: One image, a list of images, or a tensor uint8 `[B, C, H, W]`. Files are read as in training;
                photographs are turned upright, and transparent pixels become white.

        Returns:
            A prediction for one image, or a list of predictions for a list or a batch.

        Raises:
            UnreadableImageError: If a file or a Pillow image cannot be decoded.
            UserError: If an argument is not an image.
        """
        if isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
            pictures, size = cast(Sequence[Picture], images), self.trained.batch_size
            batches = (pictures[start : start + size] for start in range(0, len(pictures), size))
            return [prediction for batch in batches for prediction in self._predict_batch(batch)]
        return self._predict_batch([cast(Picture, images)])[0]

    def _predict_batch(self, images: Sequence[Picture]) -> list[Prediction]:
        logits = self.trained.logits(torch.stack([self.pixels(image) for image in images])).numpy()
        probabilities = probabilities_of(logits, self.trained.is_multi_label)
        predictions = []
        for row_logits, row in zip(logits, probabilities, strict=True):
            predicted = row > self.trained.thresholds if self.trained.is_multi_label else row_logits.argmax()
            by_class = dict(zip(self.class_names, row.tolist(), strict=True))
            name = label_name(predicted, self.class_names)
            predictions.append(Prediction(name, float(row[row_logits.argmax()]), by_class, row_logits))
        return predictions

    def pixels(self, image: Picture) -> Tensor:
        """Convert an image to the network's size, channels and bit depth, uint8 or uint16 `[C, H, W]`."""
        if isinstance(image, str | os.PathLike):
            try:
                return self.trained.read(image)
            except UnreadableImageError as error:
                raise UnreadableImageError(f"{escape_name(str(image))}: {error}") from error
        channels, height, width = self.trained.shape
        pixels, resize = self.trained.pixel_format, self.trained.resize
        with unreadable_if_it_fails():
            if isinstance(image, Image.Image):
                if pixels.is_plain(channels):
                    return torch.from_numpy(pixels_of(image, channels, (height, width), resize).copy())
                image = np.moveaxis(image_numbers(image, is_shown=pixels.is_shown(channels)), 0, 2)
            if isinstance(image, Tensor) and image.ndim == 3:
                image = image.permute(1, 2, 0).cpu().numpy()
            if isinstance(image, np.ndarray) and image.ndim in (2, 3) and image.size:
                levels = np.atleast_3d(image)
                if levels.shape == (height, width, channels) and levels.dtype == pixels.dtype:
                    return torch.from_numpy(levels.transpose(2, 0, 1).copy())
                if not pixels.is_plain(channels):
                    levels = pixels.levels(levels.transpose(2, 0, 1), channels)
                    return torch.from_numpy(pixels.fitted(levels, (height, width), resize))
                if levels.shape[2] <= 4 and levels.dtype == np.uint8:
                    return self.pixels(Image.fromarray(levels.squeeze(2) if levels.shape[2] == 1 else levels))
        kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray | Tensor) else repr(image)[:60]
        raise UserError(
            f"A {type(image).__name__}, {kind}, is no image: give a path, a Pillow image, a uint8 array [H, W] "
            "or [H, W, C], a uint8 tensor [B, C, H, W], or a list of these."
        )


load_classifier = ImageClassifier  # a verb, for use as a function
