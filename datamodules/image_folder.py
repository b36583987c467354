"""Any images in folders named after their classes."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException

from datamodules.base import ImageDataModule
from datamodules.image_file import Resize
from datamodules.image_files import fingerprint_files, folders_in, images_in, images_under, listed
from datamodules.pack import Source

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""What the folder of each split may be called."""

NUMBERED = re.compile(r"([^.]+)\.\d+\.\w+")
"""Names of files that begin with their class, as in the Dogs vs. Cats competition (Kaggle, 2013): `cat.0.jpg`."""


class ImageFolder(ImageDataModule):
    """Images in `train/<class>`, and `val/<class>` and `test/<class>` if there are; or in `<class>`, to be split.

    The classes are those of `train`, sorted by name. Images may lie in folders within a class's folder. Instead of in
    class folders, they may be named after their class and numbered: `train/cat.0.jpg`. What a split lacks in labels is
    no split: a `test` folder of images without classes is left alone.

    Args:
        folder: Where they are; a relative path begins in `root`.
        image_size: Height and width that images are brought to, in pixels; one number is both.
        channels: 3 for colour, 1 for grey.
        resize: `crop` resizes the shorter side and cuts out the centre, `squash` resizes both sides.
        arguments: Those of `ImageDataModule`.
    """

    whereabouts = "say with --data.folder where the images are; a relative path begins in --data.root"

    def __init__(
        self,
        folder: Path = Path("images"),
        image_size: int | tuple[int, int] = 224,
        channels: Literal[1, 3] = 3,
        resize: Resize = "crop",
        **arguments: Any,
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 1:
            raise MisconfigurationException(f"data.image_size is {image_size}; give a positive number of pixels.")
        self.image_shape = (channels, height, width)
        self.resize = resize
        self._folder = folder
        super().__init__(**arguments)

    @property
    def source_folder(self) -> Path:
        """The folder of images."""
        return self.root / self._folder

    @cached_property
    def _split_folders(self) -> dict[str, Path]:
        there = self.from_source(lambda: folders_in(self.source_folder))
        if "train" not in there:
            return {"train": self.source_folder}
        named = {split: name for split, names in SPLIT_FOLDERS.items() for name in reversed(names) if name in there}
        folders = {split: self.source_folder / name for split, name in named.items()}
        return {split: folder for split, folder in folders.items() if split == "train" or self._classes_in(folder)}

    def _classes_in(self, folder: Path) -> list[str]:
        return folders_in(folder) or sorted(
            {match[1] for name in images_in(folder) if (match := NUMBERED.fullmatch(name))}
        )

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # others declare theirs, these are folders
        """The names of the class folders in `train`, sorted.

        Raises:
            MisconfigurationException: If there are none.
        """
        folder = self._split_folders["train"]
        names = self.from_source(lambda: self._classes_in(folder))
        if not names:
            raise MisconfigurationException(
                f"{folder} has no class folders; expected images in folders such as {folder / 'cat'} and "
                f"{folder / 'dog'}."
            )
        return names

    def fingerprint(self) -> str:
        """Sizes and times of all files."""
        return fingerprint_files(self.source_folder)

    def read(self) -> Source:
        """The images of every split that is there."""
        listing = {split: self._list(split, folder) for split, folder in self._split_folders.items()}
        return listed(self.source_folder, listing, self.image_shape, self.resize)

    def _list(self, split: str, folder: Path) -> list[tuple[str, int]]:
        names = self.source_class_names
        if others := sorted(set(self._classes_in(folder)) - set(names)):
            raise MisconfigurationException(
                f"{folder} has the class {others[0]}, which training lacks; the classes are those of "
                f"{self._split_folders['train']}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}."
            )
        if folders_in(folder):
            rows = [
                (path, label)
                for label, name in enumerate(names)
                if (folder / name).is_dir()
                for path in images_under(folder / name, self.source_folder)
            ]
        else:
            within = folder.relative_to(self.source_folder)
            matches = [match for name in images_in(folder) if (match := NUMBERED.fullmatch(name))]
            rows = [(str(within / match[0]), names.index(match[1])) for match in matches]
        if split == "train" and (empty := sorted(set(range(len(names))) - {label for _, label in rows})):
            raise MisconfigurationException(
                f"The class folder {folder / names[empty[0]]} has no image; add some or remove the folder."
            )
        return rows
