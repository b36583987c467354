"""Image files, in a folder for each class or in files named after their classes."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from core.any_path import AnyPath
from core.names import some_of
from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.decoding.find_files import folders_in, images_in, images_under
from datamodules.decoding.folder_fingerprint import fingerprint_files
from datamodules.decoding.image_file import Resize
from datamodules.decoding.image_files import Listing, listed
from datamodules.decoding.pixel_format import PixelFormat
from datamodules.decoding.split_folders import NUMBERED, check_splits, classes_in, find_splits
from datamodules.packing.pack import Source


class ImageFileModule(ImageDataModule):
    """Base class of data sets of image files, which are resized to one size.

    Args:
        image_size: Height and width in pixels; a single number is both.
        channels: 3 for RGB, 1 for grey; any other number for that many stored channels, or pages of a TIFF; a list
            selects stored channels by their numbers, from 1, in this order.
        resize: `crop` resizes the shorter side and crops the centre, `squash` resizes both sides.
        bit_depth: Convert all images to 8 or 16 bits; by default all must have the bits of the first.
        value_range: The values that become the lowest and the highest level; values outside are clipped. Files of
            floating-point numbers need it. For DICOM files it is a window that replaces the one in the file.
        arguments: Those of `ImageDataModule`.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        channels: int | list[int] = 3,
        resize: Resize = "crop",
        bit_depth: Literal[8, 16] | None = None,
        value_range: tuple[float, float] | None = None,
        **arguments: Any,
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 1:
            raise UserError(f"data.image_size is {image_size}; give a positive number of pixels.")
        numbers = [channels] if isinstance(channels, int) else channels
        if min(numbers, default=0) < 1:
            raise UserError(f"data.channels is {channels}; give their number, or a list of them, numbered from 1.")
        if value_range is not None and not value_range[0] < value_range[1]:
            raise UserError(f"data.value_range is {list(value_range)}; give two numbers, the lower first.")
        is_count = isinstance(channels, int)
        self.pixel_format = PixelFormat(bit_depth, None if is_count else tuple(numbers), value_range)
        self.image_shape = (numbers[0] if is_count else len(numbers), height, width)
        self.resize = resize
        super().__init__(**arguments)

    def listed(self, listing: Listing) -> Source:
        """Return what `read` must return, from a listing: for each split, the path and the label of each image."""
        return listed(self.source_folder, listing, self.image_shape, self.resize, self.pixel_format)


class ImageFolder(ImageFileModule):
    """Images in a folder for each class, with or without a folder for each split.

    These layouts are recognised:

    - `<class>/...`: splits are drawn.
    - `train/<class>/...`, and `val/<class>/...` and `test/<class>/...` if there are such splits. Folders of splits may
      also be called as in public data sets: `Training`, `valid`, `seg_test`.
    - `train/cat.0.jpg`: files that are named after their class and numbered, instead of folders of classes.

    The classes are those of `train`, sorted by name. Images may lie at any depth in a class folder. A `test` folder
    without classes is not used. A single folder inside another, as archives have it, is looked through.

    Args:
        folder: The folder of images, relative to `root`.
        splits: The folder of each split, relative to `folder`, if its name is unusual: `{train: a, test: b}`; or
            `{train: .}` if all folders are classes, whatever their names.
        arguments: Those of `ImageFileModule`.
    """

    whereabouts = "say with --data.folder where the images are; a relative path begins in --data.root"

    def __init__(
        self,
        folder: AnyPath = Path("images"),
        splits: dict[Literal["train", "val", "test"], str] | None = None,
        **arguments: Any,
    ) -> None:
        self._configured_splits: dict[str, Path] | None = None
        if splits is not None:
            self._configured_splits = {split: Path(name) for split, name in splits.items()}
            check_splits(self._configured_splits)
        self._folder = folder
        super().__init__(**arguments)

    @property
    def source_folder(self) -> Path:
        """The folder of images."""
        return self.root / self._folder

    @cached_property
    def _split_folders(self) -> dict[str, Path]:
        return self.from_source(lambda: find_splits(self.source_folder, self._configured_splits))

    @cached_property
    def _class_folders(self) -> list[str]:
        """All classes, in the order of their labels."""
        return self.from_source(lambda: classes_in(self._split_folders["train"]))

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # a plain attribute in the base class
        """The names of the classes in `train`, sorted."""
        if not self._class_folders:
            folder = self._split_folders["train"]
            raise UserError(
                f"{folder} has no class folders; expected images in folders such as {folder / 'cat'} and "
                f"{folder / 'dog'}, or another folder in --data.folder or --data.splits."
            )
        return self._class_folders

    def fingerprint(self) -> str:
        """Hash the sizes and times of all files."""
        return fingerprint_files(self.source_folder)

    def read(self) -> Source:
        """Read the images of all available splits."""
        return self.listed({split: self._list(folder) for split, folder in self._split_folders.items()})

    def _list(self, split_folder: Path) -> list[tuple[str, int]]:
        label_of = {name: label for label, name in enumerate(self._class_folders)}
        classes = classes_in(split_folder)
        if unknown := sorted(set(classes) - set(label_of)):
            raise UserError(
                f"{split_folder} has the class {unknown[0]}, which training lacks; remove it, or add its images to "
                f"{self._split_folders['train']}, whose classes are {some_of(self._class_folders)}."
            )
        if not folders_in(split_folder):
            relative = split_folder.relative_to(self.source_folder)
            matches = [match for name in images_in(split_folder) if (match := NUMBERED.fullmatch(name))]
            return [(str(relative / match[0]), label_of[match[1]]) for match in matches]
        rows = []
        for name in classes:
            folder = split_folder / name
            if repeated := sorted(set(folders_in(folder)) & set(label_of) - {name}):
                raise UserError(
                    f"{folder} has a folder {repeated[0]}, as there is a class beside it, so that its images "
                    "would be of two classes; remove what is there twice, or name another --data.folder."
                )
            rows += [(path, label_of[name]) for path in images_under(folder, self.source_folder)]
        return rows
