"""The folders of splits and of classes in a folder of images, as public data sets lay them out."""

import re
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path

from core.names import some_of
from core.user_error import UserError
from datamodules.decoding.find_files import files_in, files_under, folders_in
from datamodules.decoding.image_file import holds_numbers, is_image

# What public data sets call the folder of each split, as Hugging Face's `datasets` knows it, and that of images
# without labels.
SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("pred", "predict", "prediction", "unlabeled", "unlabelled"), "unlabelled"),
}

OTHER_WORDS = frozenset(("", "image", "img", "split"))  # other words in such names, as in `test_images`

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


def check_splits(folders: Mapping[str, Path]) -> None:
    """Check the folders that `data.splits` names, relative to the folder of images."""
    pairs = permutations(folders.values(), 2)
    is_wrong = "train" not in folders or any(one == other or one in other.parents for one, other in pairs)
    if is_wrong or any(path.is_absolute() or ".." in path.parts for path in folders.values()):
        given = ", ".join(f"{split}: {path}" for split, path in folders.items())
        raise UserError(
            f"data.splits is '{{{given}}}'; give train a folder, and each split one of its own within --data.folder, "
            "none in another."
        )


def find_splits(top: Path, given: Mapping[str, Path] | None) -> dict[str, Path]:
    """The folder of each split of the images in a folder, by the names given or, if none is, by its own names."""
    if given is None:
        folders = _named_splits(_unwrapped(top, split_named))
    else:
        folders = {split: top / path for split, path in given.items()}
    found = {"train": _unwrapped(folders["train"])}
    classes = classes_in(found["train"]) if len(folders) > 1 else []
    for split in ("val", "test"):
        if split in folders:
            folder = _unwrapped(folders[split], classes.__contains__)
            if len(folders_in(folder)) > 1 or not set(classes).isdisjoint(classes_in(folder)):
                found[split] = folder
            elif given is not None:
                raise UserError(
                    f"{folder}, which data.splits names, has no class of training; name a folder of {some_of(classes)}."
                )
    return found


def classes_in(folder: Path) -> list[str]:
    """The classes in a folder, sorted: its folders or, if it has none, the names before the numbers of its images."""
    if folders := folders_in(folder):
        return folders
    classes: set[str] = set()
    numbered = [(match[1], entry.path) for entry in files_in(folder) if (match := NUMBERED.fullmatch(entry.name))]
    for is_one in (is_image, holds_numbers):
        for name, path in numbered:
            if name not in classes and is_one(path):  # one image shows that there is a class
                classes.add(name)
        if classes:
            break
    return sorted(classes)


def _unwrapped(folder: Path, is_one: Callable[[str], object] = lambda name: False) -> Path:
    """The folder, or one within it that archives have wrapped in others: alone in its own, and with several classes."""
    inner = folder
    while len(names := folders_in(inner)) == 1 and not is_one(names[0]):
        inner /= names[0]
    return inner if inner == folder or (names and is_one(names[0])) or len(classes_in(inner)) > 1 else folder


def _named_splits(folder: Path) -> dict[str, Path]:
    """The folders in one that are named after splits; itself, for training, if there are none."""
    names = folders_in(folder)
    by_rest: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        if named := split_named(name):
            by_rest.setdefault(named[1], []).append((named[0], name))
    # A single folder with another word in its name may be a class, such as bullet trains.
    several = (some for some in by_rest.values() if "train" in dict(some) and len(dict(some)) > 1)
    splits = by_rest.get("") or next(several, [])
    if not splits:
        return {"train": folder}
    within = [name for _, name in splits]
    # Beside two splits, folders without class folders are not meant to be trained on.
    others = [name for name in names if name not in within and (len(dict(splits)) == 1 or folders_in(folder / name))]
    others = [name for name in others if any(is_image(entry.path) for entry in files_under(folder / name))]
    if "train" in dict(splits) and not others and len(dict(splits)) == len(splits):
        return {split: folder / name for split, name in splits}
    raise UserError(
        f"{folder} has folders named after splits ({some_of(within)}){f' beside {some_of(others)}' if others else ''}: "
        "it is not clear which are splits and which are classes; name the folder of each split, relative to "
        "--data.folder, as in --data.splits '{train: FOLDER, test: FOLDER}', or '{train: .}' if all are classes."
    )
