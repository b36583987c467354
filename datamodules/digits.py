"""Digits: scans of handwritten digits that scikit-learn includes, so that nothing is downloaded."""

from importlib.metadata import version

import numpy as np

from datamodules.base import ImageDataModule
from datamodules.packing.pack import Source


class Digits(ImageDataModule):
    """1,797 grey images of 8x8 pixels in 10 classes, without official splits.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998. scikit-learn
    includes the test part, by 13 of the 43 writers; NIST's preprocessing programs reduced the scans.
    """

    class_names = tuple("0123456789")
    image_shape = (1, 8, 8)

    def fingerprint(self) -> str:
        """Return the version of scikit-learn, because its package includes the images."""
        return f"scikit-learn {version('scikit-learn')}"

    def read(self) -> Source:
        """Read all images as `train`, and scale their levels from 0 to 16 to 0 to 255."""
        from sklearn.datasets import load_digits  # takes a second; only needed to make the pack

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        return {"train": (images[:, None], digits.target.astype(np.int64))}
