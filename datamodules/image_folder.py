"""Any images in files, such as those in folders named after their classes."""

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
    """Images in files of any size, each brought to one.

    Args:
        image_size: Height and width that images are brought to, in pixels; one number is both.
        channels: 3 for colour, 1 for grey; any other number for the channels that each file has, or pages of a TIFF; a
            list of them, numbered from 1, takes these in this order.
        resize: `crop` resizes the shorter side and cuts out the centre, `squash` resizes both sides.
        bit_depth: Bits that all images are brought to, 8 or 16; by default those of the first, which all must have.
        value_range: The values that become the lowest and the highest level, as floating-point numbers need it; in
            DICOM files a window in place of their own. Values beyond become the nearer of the two.
        arguments: Those of `ImageDataModule`.
    """

    reads_image_files = True

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
        planes = None if isinstance(channels, int) else tuple(channels)
        if min([channels] if isinstance(channels, int) else channels, default=0) < 1:
            raise UserError(f"data.channels is {channels}; give their number, or a list of them, numbered from 1.")
        if value_range is not None and not value_range[0] < value_range[1]:
            raise UserError(f"data.value_range is {list(value_range)}; give two numbers, the lower first.")
        self.pixel_format = PixelFormat(bit_depth, planes, value_range)
        self.image_shape = (channels if isinstance(channels, int) else len(channels), height, width)
        self.resize = resize
        super().__init__(**arguments)

    def listed(self, listing: Listing) -> Source:
        """Make the source of a listing: path in the source's folder, and label, of each image of each split."""
        return listed(self.source_folder, listing, self.image_shape, self.resize, self.pixel_format)


class ImageFolder(ImageFileModule):
    """Images in a folder for each class, to be split; or in `train/<class>`, with `val/<class>` and `test/<class>`.

    The classes are those of `train`, sorted by name. Images may lie in folders within a class's folder. Instead of in
    class folders, they may be named after their class and numbered: `train/cat.0.jpg`. A `test` folder of images
    without classes is left out. Folders of splits may be named as in public data sets (`Training`, `valid`,
    `seg_test`), and a folder that is alone in another is looked through.

    Args:
        folder: The folder of images; a relative path begins in `root`.
        splits: The folder of each split, relative to `folder`, where names do not say it: `{train: a, test: b}`; or
            `{train: .}` if all folders are classes, whatever they are called.
        arguments: Those of `ImageFileModule`.
    """

    whereabouts = "say with --data.folder where the images are; a relative path begins in --data.root"

    def __init__(
        self,
        folder: AnyPath = Path("images"),
        splits: dict[Literal["train", "val", "test"], str] | None = None,
        **arguments: Any,
    ) -> None:
        self._given_splits = None if splits is None else {str(split): Path(name) for split, name in splits.items()}
        if self._given_splits is not None:
            check_splits(self._given_splits)
        self._folder = folder
        super().__init__(**arguments)

    @property
    def source_folder(self) -> Path:
        """The folder of images."""
        return self.root / self._folder

    @cached_property
    def _split_folders(self) -> dict[str, Path]:
        return self.from_source(lambda: find_splits(self.source_folder, self._given_splits))

    @cached_property
    def _class_folders(self) -> list[str]:
        """The classes as the source has them, in the order of their labels."""
        return self.from_source(lambda: classes_in(self._split_folders["train"]))

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # others declare theirs, these are folders
        """The names of the class folders in `train`, sorted."""
        if not self._class_folders:
            folder = self._split_folders["train"]
            raise UserError(
                f"{folder} has no class folders; expected images in folders such as {folder / 'cat'} and "
                f"{folder / 'dog'}, or another folder in --data.folder or --data.splits."
            )
        return self._class_folders

    def fingerprint(self) -> str:
        """Sizes and times of all files."""
        return fingerprint_files(self.source_folder)

    def read(self) -> Source:
        """The images of every split that is there."""
        return self.listed({split: self._list(folder) for split, folder in self._split_folders.items()})

    def _list(self, folder: Path) -> list[tuple[str, int]]:
        label_of = {name: label for label, name in enumerate(self._class_folders)}
        classes = classes_in(folder)
        if others := sorted(set(classes) - set(label_of)):
            raise UserError(
                f"{folder} has the class {others[0]}, which training lacks; remove it, or add its images to "
                f"{self._split_folders['train']}, whose classes are {some_of(self._class_folders)}."
            )
        if folders_in(folder):
            for name in classes:
                if twice := sorted(set(folders_in(folder / name)) & set(label_of) - {name}):
                    raise UserError(
                        f"{folder / name} has a folder {twice[0]}, as there is a class beside it, so that its images "
                        "would be of two classes; remove what is there twice, or name another --data.folder."
                    )
            rows = [
                (path, label_of[name]) for name in classes for path in images_under(folder / name, self.source_folder)
            ]
        else:
            within = folder.relative_to(self.source_folder)
            matches = [match for name in images_in(folder) if (match := NUMBERED.fullmatch(name))]
            rows = [(str(within / match[0]), label_of[match[1]]) for match in matches]
        return rows
