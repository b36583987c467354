"""MNIST: handwritten digits."""

from pathlib import Path
from typing import ClassVar

from datamodules.base import ImageDataModule
from datamodules.decoding.folder_fingerprint import fingerprint_files
from datamodules.decoding.idx import find_idx, read_idx
from datamodules.packing.pack import Source


class MNIST(ImageDataModule):
    """60,000 training and 10,000 test scans of 28x28 pixels, 10 classes, in `MNIST/raw` as torchvision lays them out.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
    1998, who chose the test split: writers that are not among those of the training split.
    """

    class_names = tuple("0123456789")
    image_shape = (1, 28, 28)
    origin = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    files: ClassVar = {"train": "train", "test": "t10k"}

    @property
    def source_folder(self) -> Path:
        """The folder of the four IDX files, plain or gzip."""
        return self.root / type(self).__name__ / "raw"

    def _paths(self, prefix: str) -> tuple[Path, Path]:
        return tuple(find_idx(self.source_folder, f"{prefix}-{part}-ubyte") for part in ("images-idx3", "labels-idx1"))  # type: ignore[return-value]

    def fingerprint(self) -> str:
        """Sizes and times of the four files."""
        return " ".join(fingerprint_files(path) for prefix in self.files.values() for path in self._paths(prefix))

    def read(self) -> Source:
        """Both splits as they are."""
        splits = {split: tuple(map(read_idx, self._paths(prefix))) for split, prefix in self.files.items()}
        return {split: (images[:, None], labels.astype("int64")) for split, (images, labels) in splits.items()}

    def fetch(self) -> None:
        """Download through torchvision."""
        from torchvision import datasets  # two seconds' import, needed once

        getattr(datasets, type(self).__name__)(self.root, download=True)
