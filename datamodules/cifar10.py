"""CIFAR-10: small colour photographs of animals and vehicles."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.decoding.cifar_batch import read_batch
from datamodules.decoding.find_files import images_under
from datamodules.decoding.folder_fingerprint import fingerprint_files
from datamodules.decoding.image_files import listed
from datamodules.packing.pack import Source


class CIFAR10(ImageDataModule):
    """50,000 training and 10,000 test images of 32x32 RGB pixels in 10 classes.

    The images are read from the original batches in `cifar-10-batches-py` or, if this folder is missing, from image
    files such as `cifar10/train/airplane/1.png`.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The author chose the test
    images at random, 1,000 of each class.
    """

    class_names: tuple[str, ...] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    image_shape = (3, 32, 32)
    origin = "https://www.cs.toronto.edu/~kriz/cifar.html"
    batches: ClassVar = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    batches_folder = "cifar-10-batches-py"
    label_key = "labels"  # of the labels in a batch

    @property
    def source_folder(self) -> Path:
        """The folder of the batches, or of the image files if only this folder exists."""
        batches, files = self.root / self.batches_folder, self.root / type(self).__name__.lower()
        return files if files.is_dir() and not batches.is_dir() else batches

    def fingerprint(self) -> str:
        """Hash the sizes and times of all files."""
        return fingerprint_files(self.source_folder)

    def read(self) -> Source:
        """Read both splits."""
        if self.source_folder.name == self.batches_folder:
            return {split: self._read_batches(split) for split in self.batches}
        listing = {split: self._list_files(split) for split in self.batches}
        return listed(self.source_folder, listing, self.image_shape)

    def _read_batches(self, split: str) -> tuple[Any, Any]:
        batches = [read_batch(self.source_folder / name) for name in self.batches[split]]
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, *self.image_shape)
        labels = np.concatenate([batch[self.label_key] for batch in batches])
        return images, labels.astype(np.int64)

    def _list_files(self, split: str) -> list[tuple[str, int]]:
        label_of = {name: label for label, name in enumerate(self.source_class_names)}
        rows = []
        for path in images_under(self.source_folder / split, self.source_folder):
            name = Path(path).parent.name  # some copies have folders of superclasses above those of classes
            if name not in label_of:
                raise UserError(
                    f"{self.source_folder / split} has the folder {name}, which is no class of "
                    f"{type(self).__name__}; expected folders such as {self.source_class_names[0]}."
                )
            rows.append((path, label_of[name]))
        return rows

    def fetch(self) -> None:
        """Download with torchvision, which has a data set of this class's name."""
        from torchvision import datasets  # takes two seconds; only needed to download

        getattr(datasets, type(self).__name__)(self.root, download=True)
