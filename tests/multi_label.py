"""A data set whose images have several labels each, or none."""

import numpy as np
from sklearn.datasets import load_digits

from datamodules.base import ImageDataModule
from datamodules.packing.pack import Source

PROPERTIES = {"even": (0, 2, 4, 6, 8), "prime": (2, 3, 5, 7), "loop": (0, 6, 8, 9), "large": (5, 6, 7, 8, 9)}
"""The digits that have each; 1 has none."""


class DigitProperties(ImageDataModule):
    class_names = tuple(PROPERTIES)
    image_shape = (1, 8, 8)
    is_multi_label = True

    def fingerprint(self) -> str:
        return ""

    def read(self) -> Source:
        digits = load_digits()
        labels = np.stack([np.isin(digits.target, some) for some in PROPERTIES.values()], axis=1)
        return {"train": ((digits.images[:, None] * (255 / 16)).round().astype(np.uint8), labels.astype(np.uint8))}


class FirstProperty(DigitProperties):
    """The same images and classes with one label each."""

    is_multi_label = False

    def read(self) -> Source:
        images, labels = super().read()["train"][:2]
        return {"train": (images, np.asarray(labels).argmax(axis=1))}
