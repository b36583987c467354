"""MNIST: scans of handwritten digits."""

from pathlib import Path
from typing import ClassVar

from datamodules.base import ImageDataModule
from datamodules.decoding.folder_fingerprint import fingerprint_files
from datamodules.decoding.idx import find_idx, read_idx
from datamodules.packing.pack import Source


class MNIST(ImageDataModule):
    """60,000 training and 10,000 test images of 28x28 grey pixels in 10 classes.

    The files are in `MNIST/raw`, as torchvision downloads them.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
    1998. The authors chose the splits so that no writer is in both.
    """

    class_names = tuple("0123456789")
    image_shape = (1, 28, 28)
    origin = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    prefixes: ClassVar = {"train": "train", "test": "t10k"}  # of the file names of each split

    @property
    def source_folder(self) -> Path:
        """The folder of the four IDX files, which may be compressed with gzip."""
        return self.root / type(self).__name__ / "raw"

    def _find(self, split: str, content: str) -> Path:
        return find_idx(self.source_folder, f"{self.prefixes[split]}-{content}-ubyte")

    def fingerprint(self) -> str:
        """Hash the sizes and times of the four files."""
        contents = ("images-idx3", "labels-idx1")
        return " ".join(fingerprint_files(self._find(split, part)) for split in self.prefixes for part in contents)

    def read(self) -> Source:
        """Read both splits."""
        source = {}
        for split in self.prefixes:
            images, labels = read_idx(self._find(split, "images-idx3")), read_idx(self._find(split, "labels-idx1"))
            source[split] = images[:, None], labels.astype("int64")
        return source

    def fetch(self) -> None:
        """Download with torchvision, which has a data set of this class's name."""
        from torchvision import datasets  # takes two seconds; only needed to download

        getattr(datasets, type(self).__name__)(self.root, download=True)
