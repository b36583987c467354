"""Handwritten digits that scikit-learn ships: real scans, no download."""

from importlib.metadata import version

import numpy as np

from datamodules.base import ImageDataModule
from datamodules.packing.pack import Source


class Digits(ImageDataModule):
    """1,797 grey scans of 8x8 pixels, 10 classes, in no official splits.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998; scikit-learn
    ships the 1,797 images of its test part, 43 writers in Ankara and Istanbul counted by NIST's preprocessing programs.
    """

    class_names = tuple("0123456789")
    image_shape = (1, 8, 8)

    def fingerprint(self) -> str:
        """The release of scikit-learn, which ships the images."""
        return f"scikit-learn {version('scikit-learn')}"

    def read(self) -> Source:
        """All images as one split; their 17 levels of grey, 0 to 16, spread over 0 to 255."""
        from sklearn.datasets import load_digits  # a second's import, needed once

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        return {"train": (images[:, None], digits.target.astype(np.int64))}
