"""Any images in folders named after their classes."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

from core.names import some_of
from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.decoding.image_file import Resize, is_image
from datamodules.decoding.image_files import (
    files_in,
    fingerprint_files,
    folders_in,
    holds_image,
    images_in,
    images_under,
    listed,
)
from datamodules.packing.pack import Source

# What public data sets call the folder of each split, as Hugging Face's `datasets` knows it, and that of images
# without labels.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
    "unlabelled": ("pred", "predict", "prediction", "unlabeled", "unlabelled"),
}

SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}

OTHER_WORDS = frozenset(("", "image", "img", "split"))  # what such names hold besides, as in `test_images`

# Names of files that begin with their class, as in the competition Dogs vs. Cats (Kaggle, 2013), `cat.0.jpg`, and the
# Oxford-IIIT Pet data set (Parkhi et al., 2012), `Abyssinian_1.jpg`.
NUMBERED = re.compile(r"(.+?)[._]\d+(\.\w+)?")


def split_named(name: str) -> tuple[str, str] | None:
    """The split that a folder is named after, and the rest of its name; None if it is named after none.

    Example:
        >>> split_named("Training"), split_named("ValidSet"), split_named("seg_train"), split_named("trainee")
        (('train', ''), ('val', ''), ('train', 'seg'), None)
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    words = [re.sub(r"(data)?(set)?s?$", "", word) for word in words]
    splits = [SPLIT_OF[word] for word in words if word in SPLIT_OF]
    if len(splits) != 1:
        return None
    return splits[0], " ".join(word for word in words if word not in SPLIT_OF and word not in OTHER_WORDS)


class ImageFolder(ImageDataModule):
    """Images in `train/<class>`, and `val/<class>` and `test/<class>` if there are; or in `<class>`, to be split.

    The classes are those of `train`, sorted by name. Images may lie in folders within a class's folder. Instead of in
    class folders, they may be named after their class and numbered: `train/cat.0.jpg`. What a split lacks in labels is
    no split: a `test` folder of images without classes is left out. Folders of splits may be named as in public data
    sets (`Training`, `valid`, `seg_test`), and a folder that is alone in another is looked through.

    Args:
        folder: Where they are; a relative path begins in `root`.
        image_size: Height and width that images are brought to, in pixels; one number is both.
        channels: 3 for colour, 1 for grey.
        resize: `crop` resizes the shorter side and cuts out the centre, `squash` resizes both sides.
        splits: The folder of each split, relative to `folder`, where names do not say it: `{train: a, test: b}`; or
            `{train: .}` if all folders are classes, whatever they are called.
        arguments: Those of `ImageDataModule`.
    """

    whereabouts = "say with --data.folder where the images are; a relative path begins in --data.root"

    def __init__(
        self,
        folder: Path = Path("images"),
        image_size: int | tuple[int, int] = 224,
        channels: Literal[1, 3] = 3,
        resize: Resize = "crop",
        splits: dict[Literal["train", "val", "test"], str] | None = None,
        **arguments: Any,
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 1:
            raise UserError(f"data.image_size is {image_size}; give a positive number of pixels.")
        if splits is not None:
            _check_splits({split: Path(name) for split, name in splits.items()})
        self.image_shape = (channels, height, width)
        self.resize = resize
        self._folder = folder
        self._given_splits = splits
        super().__init__(**arguments)

    @property
    def source_folder(self) -> Path:
        """The folder of images."""
        return self.root / self._folder

    @cached_property
    def _split_folders(self) -> dict[str, Path]:
        return self.from_source(self._find_splits)

    def _find_splits(self) -> dict[str, Path]:
        top = self.source_folder
        given = self._given_splits
        named = (
            _named_splits(_unwrapped(top, split_named), top)
            if given is None
            else {str(split): top / name for split, name in given.items()}
        )
        found = {"train": _unwrapped(named["train"])}
        classes = _classes_in(found["train"]) if named.keys() - {"train"} else []
        for split in ("val", "test"):
            if split in named:
                folder = _unwrapped(named[split], classes.__contains__)
                if len(folders_in(folder)) > 1 or not set(classes).isdisjoint(_classes_in(folder)):
                    found[split] = folder
                elif given is not None:
                    raise UserError(
                        f"{folder}, which data.splits names, has no class of training, such as {some_of(classes)}; "
                        "name a folder of class folders."
                    )
        return found

    @cached_property
    def _class_folders(self) -> list[str]:
        """The classes as the source has them, in the order of their labels."""
        return self.from_source(lambda: _classes_in(self._split_folders["train"]))

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
        listing = {split: self._list(split, folder) for split, folder in self._split_folders.items()}
        return listed(self.source_folder, listing, self.image_shape, self.resize)

    def _list(self, split: str, folder: Path) -> list[tuple[str, int]]:
        label_of = {name: label for label, name in enumerate(self._class_folders)}
        classes = _classes_in(folder)
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
        if split == "train" and (empty := sorted(set(label_of.values()) - {label for _, label in rows})):
            raise UserError(
                f"The class folder {folder / self._class_folders[empty[0]]} has no image; add some or remove the "
                "folder, or say with --data.folder in which folder the classes are."
            )
        return rows


def _check_splits(folders: Mapping[str, Path]) -> None:
    if "train" not in folders:
        raise UserError("data.splits has no folder for train; give one, as in '{train: .}'.")
    for (one, path), (other, inner) in permutations(folders.items(), 2):
        if path == inner or path in inner.parents:
            raise UserError(
                f"data.splits: the folder of {other} lies in that of {one}, so that images would be in both; give "
                "folders beside each other."
            )
    for path in folders.values():
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"data.splits names {path}; give a folder within --data.folder.")


def _classes_in(folder: Path) -> list[str]:
    if folders := folders_in(folder):
        return folders
    classes: set[str] = set()
    for entry in files_in(folder):  # one image shows that there is a class
        match = NUMBERED.fullmatch(entry.name)
        if match and match[1] not in classes and is_image(entry.path):
            classes.add(match[1])
    return sorted(classes)


def _unwrapped(folder: Path, is_one: Callable[[str], object] = lambda name: False) -> Path:
    """The folder, or one within it that archives have wrapped in others: alone in its own, and with several classes."""
    inner = folder
    while len(names := folders_in(inner)) == 1 and not is_one(names[0]):
        inner /= names[0]
    return inner if inner == folder or (names and is_one(names[0])) or len(_classes_in(inner)) > 1 else folder


def _named_splits(folder: Path, top: Path) -> dict[str, Path]:
    """The folders in one that are named after splits; itself, for training, if there are none."""
    names = folders_in(folder)
    by_rest: dict[str, dict[str, list[str]]] = {}
    for name in names:
        if named := split_named(name):
            by_rest.setdefault(named[1], {}).setdefault(named[0], []).append(name)
    # With another word in its name, a folder alone may be a class, such as bullet trains.
    several = (splits for splits in by_rest.values() if "train" in splits and len(splits) > 1)
    splits = by_rest.get("") or next(several, None)
    if splits is None:
        return {"train": folder}
    within = [name for some in splits.values() for name in some]
    # Beside two splits, folders without class folders are not meant to be trained on.
    others = [name for name in names if name not in within and (len(splits) == 1 or folders_in(folder / name))]
    others = [name for name in others if holds_image(folder / name)]
    if "train" in splits and not others and len(within) == len(splits):
        return {split: folder / name for split, (name,) in splits.items()}
    asked = {"train": ["FOLDER"]} | {split: some for split, some in splits.items() if split != "unlabelled"}
    asked_for = ", ".join(f"{split}: {folder.relative_to(top) / some[0]}" for split, some in asked.items())
    raise UserError(
        f"{folder} has folders named after splits ({some_of(within)}){f' beside {some_of(others)}' if others else ''}: "
        f"it is not clear which are splits and which are classes; say it with --data.splits '{{{asked_for}}}', or "
        f"'{{train: {folder.relative_to(top)}}}' if all are classes, or rename them."
    )
