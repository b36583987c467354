"""Tiny ImageNet: 200 classes of ImageNet in small images."""

from functools import cached_property
from pathlib import Path

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.decoding.find_files import images_in
from datamodules.decoding.folder_fingerprint import fingerprint_files
from datamodules.decoding.image_files import listed
from datamodules.packing.pack import Source


class TinyImageNet(ImageDataModule):
    """100,000 training and 10,000 validation images of 64x64 RGB pixels in 200 classes.

    The archive is unpacked in `tiny-imagenet-200`: `wnids.txt` lists the WordNet ids (wnids) of the classes,
    `words.txt` their names, `train/<wnid>/images` has the training images, and `val/val_annotations.txt` the classes of
    the validation images. These are the test images too, because the labels of the official test images are secret.

    Source: Y. Le and X. Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS231n, 2015. The authors chose
    the splits.
    """

    image_shape = (3, 64, 64)
    origin = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    tests_on_validation = True
    known_files = ("wnids.txt", "words.txt", "train/*/*_boxes.txt", "val/val_annotations.txt", "test/images/*.JPEG")

    @property
    def source_folder(self) -> Path:
        """The folder in the archive."""
        return self.root / "tiny-imagenet-200"

    @cached_property
    def wnids(self) -> list[str]:
        """The WordNet ids of the classes, in the order of their labels."""
        return [line.strip() for line in self._lines("wnids.txt")]

    @cached_property
    def class_names(self) -> list[str]:  # type: ignore[override]  # a plain attribute in the base class
        """The first name of each class in `words.txt`, or its WordNet id if it has none."""
        first_names = {}
        for line in self._lines("words.txt"):
            wnid, _, names = line.partition("\t")
            first_names[wnid] = names.split(",")[0]
        return [first_names.get(wnid, wnid) for wnid in self.wnids]

    def _lines(self, name: str) -> list[str]:
        path = self.source_folder / name
        text = self.from_source(lambda: path.read_text("utf-8", "surrogateescape"))
        return [line for line in text.splitlines() if line.strip()]

    def fingerprint(self) -> str:
        """Hash the sizes and times of all files."""
        return fingerprint_files(self.source_folder)

    def read(self) -> Source:
        """List the images of the classes in `wnids.txt`, and ignore all other files."""
        train, val = [], []
        for label, wnid in enumerate(self.wnids):
            folder = f"train/{wnid}/images"
            train += [(f"{folder}/{name}", label) for name in images_in(self.source_folder / folder)]
        label_of = {wnid: label for label, wnid in enumerate(self.wnids)}
        for line in self._lines("val/val_annotations.txt"):
            name, tab, fields = line.partition("\t")
            if not tab:
                raise UserError(
                    f"{self.source_folder / 'val/val_annotations.txt'} has the line {line!r}; expected the name of a "
                    "file, a tab and a class."
                )
            wnid = fields.split("\t")[0]
            if wnid in label_of:
                val.append((f"val/images/{name}", label_of[wnid]))
        return listed(self.source_folder, {"train": train, "val": val}, self.image_shape)

    def fetch(self) -> None:
        """Download and unpack the archive."""
        from torchvision.datasets.utils import download_and_extract_archive  # takes two seconds; only needed here

        download_and_extract_archive(self.origin, str(self.root), md5="90528d7ca1a48142e341f4ef8d21d0de")
