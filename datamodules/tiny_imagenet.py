"""Tiny ImageNet: 200 classes of ImageNet in small."""

from functools import cached_property
from pathlib import Path

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.decoding.find_files import images_in
from datamodules.decoding.folder_fingerprint import fingerprint_files
from datamodules.decoding.image_files import listed
from datamodules.packing.pack import Source


class TinyImageNet(ImageDataModule):
    """100,000 training and 10,000 validation images of 64x64 pixels, 200 classes, in `tiny-imagenet-200`.

    Laid out as distributed: `train/<wnid>/images`, `val/val_annotations.txt`; `wnids.txt` decides which classes there
    are and `words.txt` has their names, of which the first is taken. Labels for test are not public.

    Source: Y. Le and X. Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS231n, 2015, who chose the
    splits.
    """

    image_shape = (3, 64, 64)
    origin = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    tests_on_validation = True
    reads_image_files = True
    known_files = ("wnids.txt", "words.txt", "train/*/*_boxes.txt", "val/val_annotations.txt", "test/images/*.JPEG")

    @property
    def source_folder(self) -> Path:
        """The folder of the distributed archive."""
        return self.root / "tiny-imagenet-200"

    @cached_property
    def wnids(self) -> list[str]:
        """The classes' numbers in WordNet, in the order of their labels."""
        return [line.strip() for line in self._lines("wnids.txt")]

    @cached_property
    def class_names(self) -> list[str]:  # type: ignore[override]  # others declare theirs, these are in a file
        """The first name of each class; its number where no name is known."""
        lines = (line.partition("\t") for line in self._lines("words.txt"))
        words = {wnid: names.split(",")[0] for wnid, _, names in lines}
        return [words.get(wnid, wnid) for wnid in self.wnids]

    def _lines(self, name: str) -> list[str]:
        path = self.source_folder / name
        text = self.from_source(lambda: path.read_text("utf-8", "surrogateescape"))
        return [line for line in text.splitlines() if line.strip()]

    def fingerprint(self) -> str:
        """Sizes and times of all files."""
        return fingerprint_files(self.source_folder)

    def read(self) -> Source:
        """The images of the classes in `wnids.txt`; other folders and files are left alone."""
        folder = self.source_folder
        train = [
            (f"train/{wnid}/images/{name}", label)
            for label, wnid in enumerate(self.wnids)
            for name in images_in(folder / "train" / wnid / "images")
        ]
        label_of = {wnid: label for label, wnid in enumerate(self.wnids)}
        annotations = folder / "val" / "val_annotations.txt"
        rows = [line.split("\t") for line in self._lines("val/val_annotations.txt")]
        if broken := [row for row in rows if len(row) < 2]:
            raise UserError(
                f"{annotations} has the line {broken[0][0]!r}; expected the name of a file, a tab and a class."
            )
        val = [(f"val/images/{name}", label_of[wnid]) for name, wnid, *_ in rows if wnid in label_of]
        return listed(folder, {"train": train, "val": val}, self.image_shape)

    def fetch(self) -> None:
        """Download and unpack the archive."""
        from torchvision.datasets.utils import download_and_extract_archive  # two seconds' import, needed once

        download_and_extract_archive(self.origin, str(self.root), md5="90528d7ca1a48142e341f4ef8d21d0de")
