from pathlib import Path

import pytest
from PIL import Image

from core.user_error import UserError
from datamodules.decoding.split_folders import check_splits, classes_in, find_splits


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes in splits that an archive has wrapped in a folder of its own, and images that are to be predicted."""
    for name in ("training_set/cat/0.png", "training_set/dog/1.png", "validSet/cat/2.png", "pred/3.png", "pred/4.png"):
        file = tmp_path / "archive" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(file)
    return tmp_path


def test_finds_splits_by_their_names(images: Path) -> None:
    archive = images / "archive"
    assert find_splits(images, None) == {"train": archive / "training_set", "val": archive / "validSet"}
    assert classes_in(archive / "training_set") == ["cat", "dog"]


def test_takes_the_splits_that_are_given(images: Path) -> None:
    given = {"train": Path("archive/training_set"), "test": Path("archive/validSet")}
    assert find_splits(images, given) == {split: images / path for split, path in given.items()}
    with pytest.raises(UserError, match=r"pred, which data\.splits names, has no class of training; name a folder"):
        find_splits(images, given | {"test": Path("archive/pred")})


def test_asks_where_it_is_not_clear(images: Path) -> None:
    (images / "archive" / "training_set").rename(images / "archive" / "horse")
    with pytest.raises(UserError, match=r"named after splits .* as in --data\.splits"):
        find_splits(images / "archive", None)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"val": "a"}, "give train a folder"),
        ({"train": ".", "val": "a"}, "none in another"),
        ({"train": "../a"}, "within --data.folder"),
    ],
)
def test_refuses_splits_that_make_no_sense(splits: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_splits({split: Path(name) for split, name in splits.items()})
