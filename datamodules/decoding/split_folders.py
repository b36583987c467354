"""Find the folders of splits and classes in a folder of images, by the names that public data sets use."""

import re
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path

from core.names import some_of
from core.user_error import UserError
from datamodules.decoding.find_files import files_in, files_under, folders_in
from datamodules.decoding.image_file import holds_numbers, is_image

# Names of split folders in public data sets, as in Hugging Face's `datasets`, and names for images without labels.
SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("pred", "predict", "prediction", "unlabeled", "unlabelled"), "unlabelled"),
}

OTHER_WORDS = frozenset(("", "image", "img", "split"))  # words to ignore in such names, as in `test_images`

# File names of a class and a number, such as `cat.0.jpg` in Dogs vs. Cats (Kaggle, 2013) and `Abyssinian_1.jpg` in the
# Oxford-IIIT Pet data set (Parkhi et al., 2012).
NUMBERED = re.compile(r"(.+?)[._]\d+(\.\w+)?")


def split_named(name: str) -> tuple[str, str] | None:
    """Return the split that a folder is named after, and the other words of its name; None without exactly one split.

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


def check_splits(folders: Mapping[str, Path]) -> None:
    """Raise UserError unless `data.splits` has `train`, and separate folders relative to `--data.folder`."""
    is_nested = any(first == second or first in second.parents for first, second in permutations(folders.values(), 2))
    is_outside = any(path.is_absolute() or ".." in path.parts for path in folders.values())
    if "train" not in folders or is_nested or is_outside:
        text = ", ".join(f"{split}: {path}" for split, path in folders.items())
        raise UserError(
            f"data.splits is '{{{text}}}'; give train a folder, and each split one of its own within --data.folder, "
            "none in another."
        )


def find_splits(top: Path, configured: Mapping[str, Path] | None) -> dict[str, Path]:
    """Return the folder of each split in `top`: those of `data.splits` if `configured`, else by their names."""
    if configured is None:
        folders = _named_splits(_unwrapped(top, is_content=split_named))
    else:
        folders = {split: top / path for split, path in configured.items()}
    splits = {"train": _unwrapped(folders["train"])}
    train_classes = classes_in(splits["train"]) if len(folders) > 1 else []
    for split in ("val", "test"):
        if split not in folders:
            continue
        folder = _unwrapped(folders[split], is_content=train_classes.__contains__)
        if len(folders_in(folder)) > 1 or not set(train_classes).isdisjoint(classes_in(folder)):
            splits[split] = folder
        elif configured is not None:
            raise UserError(
                f"{folder}, which data.splits names, has no class of training; name a folder of "
                f"{some_of(train_classes)}."
            )
    return splits


def classes_in(folder: Path) -> list[str]:
    """Return the classes in a folder, sorted: its folders or, if there are none, the class names of numbered images."""
    if folders := folders_in(folder):
        return folders
    numbered = [(match[1], entry.path) for entry in files_in(folder) if (match := NUMBERED.fullmatch(entry.name))]
    classes: set[str] = set()
    for is_data in (is_image, holds_numbers):
        for name, path in numbered:
            if name not in classes and is_data(path):  # the first image of a class is enough: `is_data` may open files
                classes.add(name)
        if classes:
            break
    return sorted(classes)


def _unwrapped(folder: Path, is_content: Callable[[str], object] = lambda name: False) -> Path:
    """Skip folders that contain a single folder, as archives have them, and return the inner folder with the content.

    A single folder whose name `is_content` is not skipped. Without such a folder or several classes inside, return
    `folder` itself.
    """
    inner, names = folder, folders_in(folder)
    while len(names) == 1 and not is_content(names[0]):
        inner /= names[0]
        names = folders_in(inner)
    has_content = (names and is_content(names[0])) or len(classes_in(inner)) > 1
    return inner if inner == folder or has_content else folder


def _named_splits(folder: Path) -> dict[str, Path]:
    """Return the folders in `folder` that are named after splits; `folder` itself, as `train`, if there are none."""
    names = folders_in(folder)
    groups: dict[str, list[tuple[str, str]]] = {}  # (split, folder name) of folders whose names share other words
    for name in names:
        if parsed := split_named(name):
            split, other_words = parsed
            groups.setdefault(other_words, []).append((split, name))
    # A group of one folder with other words is not a split: it may be a class, such as bullet trains.
    matching = (group for group in groups.values() if "train" in dict(group) and len(dict(group)) > 1)
    group = groups.get("") or next(matching, [])
    if not group:
        return {"train": folder}
    splits, split_names = dict(group), [name for _, name in group]
    other_names = [name for name in names if name not in split_names]
    if len(splits) > 1:  # besides two splits, only folders with class folders can be meant as data
        other_names = [name for name in other_names if folders_in(folder / name)]
    other_names = [name for name in other_names if any(is_image(entry.path) for entry in files_under(folder / name))]
    if "train" in splits and not other_names and len(splits) == len(group):
        return {split: folder / name for split, name in splits.items()}
    raise UserError(
        f"{folder} has folders named after splits ({some_of(split_names)})"
        f"{f' beside {some_of(other_names)}' if other_names else ''}: "
        "it is not clear which are splits and which are classes; name the folder of each split, relative to "
        "--data.folder, as in --data.splits '{train: FOLDER, test: FOLDER}', or '{train: .}' if all are classes."
    )
