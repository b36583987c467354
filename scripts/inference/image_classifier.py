"""A trained network as a function of images, from its checkpoint alone.

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

# A file, an image of Pillow, an array `[H, W]` or `[H, W, C]`, or a tensor `[C, H, W]`; uint8, or as the run's files.
Picture = str | Path | Image.Image | NDArray[Any] | Tensor


@dataclass(frozen=True)
class Prediction:
    """What a network predicts for one image.

    Args:
        class_name: The most probable class; of several labels, those above their thresholds, with `;` between.
        probability: That of the most probable class, in [0, 1].
        probabilities: The probability of each class, in the order of the labels.
        logits: float32 `[K]`.
    """

    class_name: str
    probability: float
    probabilities: dict[str, float]
    logits: NDArray[np.float32]

    def _repr_html_(self) -> str:
        """What a notebook shows: the most probable classes."""
        first = sorted(self.probabilities.items(), key=lambda each: -each[1])[:5]
        return f"<table>{''.join(f'<tr><td>{escape(name)}<td>{share:.1%}' for name, share in first)}</table>"


class ImageClassifier:
    """Brings images to the size and channels that a network was trained on, and predicts their classes.

    The precision is that of the run, so the same images in the same batches have the probabilities that
    `scripts/evaluate.py` gives them.

    Args:
        checkpoint: The file, or a run's folder.

    Raises:
        UserError: If it cannot be read, or does not say what images it takes.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        silence_libraries()
        self.trained = TrainedNetwork(checkpoint)
        self.class_names = self.trained.class_names
        """`K` names, in the order of the labels."""

    def __call__(self, images: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """Predict the classes of images.

        Args:
            images: One image, or a list of them, or a tensor uint8 `[B, C, H, W]`. Files are read as
                the run read its own: if as shown, upright and their transparency laid on white.

        Returns:
            A prediction, or a list of them if a list or a batch was given.

        Raises:
            UnreadableImageError: If a file or an image of Pillow cannot be decoded.
            UserError: If something else than an image was given.
        """
        if isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
            several, size = cast(Sequence[Picture], images), self.trained.batch_size
            batches = (several[start : start + size] for start in range(0, len(several), size))
            return [prediction for batch in batches for prediction in self._predictions(batch)]
        return self._predictions([cast(Picture, images)])[0]

    def _predictions(self, images: Sequence[Picture]) -> list[Prediction]:
        logits = self.trained.logits(torch.stack([self.pixels(image) for image in images])).numpy()
        thresholds, predictions = self.trained.thresholds, []
        for row, shares in zip(logits, probabilities_of(logits, self.trained.is_multi_label), strict=True):
            label, by_class = row.argmax(), dict(zip(self.class_names, shares.tolist(), strict=True))
            name = label_name(shares > thresholds if len(thresholds) else label, self.class_names)
            predictions.append(Prediction(name, float(shares[label]), by_class, row))
        return predictions

    def pixels(self, image: Picture) -> Tensor:
        """Bring an image to the size, channels and bits that the network takes, uint8 or uint16 `[C, H, W]`."""
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
            f"A {type(image).__name__}, {kind}, is no image: give a path, an image of Pillow, a uint8 array [H, W] "
            "or [H, W, C], a uint8 tensor [B, C, H, W], or a list of these."
        )


load_classifier = ImageClassifier  # the verb that a user's program calls
