"""CIFAR-10: small colour pictures of animals and vehicles."""

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
    """50,000 training and 10,000 test images of 32x32 pixels, 10 classes.

    Read from the original batches in `cifar-10-batches-py`, or else from files such as `cifar10/train/airplane/1.png`.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, who chose the test split at
    random, 1,000 images of each class.
    """

    class_names: tuple[str, ...] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    image_shape = (3, 32, 32)
    origin = "https://www.cs.toronto.edu/~kriz/cifar.html"
    batches: ClassVar = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    batches_folder, label_key = "cifar-10-batches-py", "labels"

    @property
    def source_folder(self) -> Path:
        """The folder of the batches, or that of the class folders if only that is there."""
        batches, files = self.root / self.batches_folder, self.root / type(self).__name__.lower()
        return files if files.is_dir() and not batches.is_dir() else batches

    def fingerprint(self) -> str:
        """Sizes and times of all files."""
        return fingerprint_files(self.source_folder)

    def read(self) -> Source:
        """Both splits as they are."""
        if self.source_folder.name != self.batches_folder:
            return self._list()
        return {split: self._read_batches(split) for split in self.batches}

    def _read_batches(self, split: str) -> tuple[Any, Any]:
        batches = [read_batch(self.source_folder / name) for name in self.batches[split]]
        images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("data", self.label_key))
        return images.reshape(-1, *self.image_shape), labels.astype(np.int64)

    def _list(self) -> Source:
        # Some copies have folders of superclasses in between; the class is the folder that an image lies in.
        label_of = {name: label for label, name in enumerate(self.source_class_names)}
        listing = {}
        for split in self.batches:
            paths = images_under(self.source_folder / split, self.source_folder)
            classes = [Path(path).parent.name for path in paths]
            if unknown := sorted(set(classes) - set(label_of)):
                raise UserError(
                    f"{self.source_folder / split} has the folder {unknown[0]}, which is no class of "
                    f"{type(self).__name__}; expected folders such as {self.source_class_names[0]}."
                )
            listing[split] = [(path, label_of[name]) for path, name in zip(paths, classes, strict=True)]
        return listed(self.source_folder, listing, self.image_shape)

    def fetch(self) -> None:
        """Download through torchvision."""
        from torchvision import datasets  # two seconds' import, needed once

        getattr(datasets, type(self).__name__)(self.root, download=True)
