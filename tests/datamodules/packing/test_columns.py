from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.decoding.image_files import listed
from datamodules.packing.pack import Pack, Rows
from datamodules.packing.pack_writer import write_pack
from datamodules.packing.source_check import checked
from tests.datamodules.test_image_folder import write_scans

IMAGES = (load_digits().images[:40, None] * 15).astype(np.uint8)
LABELS = load_digits().target[:40].astype(np.int64)
NAMES = tuple("0123456789")

COLUMNS = {
    "group": np.arange(40) // 4,
    "fold": np.arange(40) % 5,
    "weight": np.arange(1, 41),
    "said": np.array(["", 'ja, \n"ä"', "x" * 3000, None] * 10, object),
    "age": np.where(np.arange(40) % 7, np.arange(40), np.nan),
}


def packed(folder: Path, columns: Any) -> Pack:
    write_pack(folder, checked("Scans", {"train": (IMAGES, LABELS, columns)}, NAMES, (1, 8, 8)), NAMES)
    return Pack(folder)


def test_are_given_back(tmp_path: Path) -> None:
    columns = packed(tmp_path / "pack", COLUMNS).columns
    assert list(columns) == list(COLUMNS)
    assert columns["group"].tolist() == [str(number // 4) for number in range(40)]
    assert columns["fold"].dtype == np.int64
    assert columns["weight"].dtype == np.float64
    assert columns["said"].tolist() == ["", 'ja, \n"ä"', "x" * 3000, ""] * 10
    assert np.array_equal(columns["age"], COLUMNS["age"], equal_nan=True)


def test_of_files_without_an_image_are_left_out(tmp_path: Path) -> None:
    write_scans(tmp_path, lambda row, _: f"{row}.png", 4)
    (tmp_path / "1.png").write_text("no image")
    images, labels = listed(tmp_path, {"train": [(f"{number}.png", 0) for number in range(4)]}, (3, 8, 8))["train"]
    write_pack(tmp_path / "pack", {"train": Rows(images, labels, {"age": np.arange(4)})}, ["a", "b"])
    assert Pack(tmp_path / "pack").columns["age"].tolist() == [0, 2, 3]


def test_without_any_a_pack_is_what_it_was(tmp_path: Path) -> None:
    assert packed(tmp_path / "a", {}).columns == {}
    write_pack(tmp_path / "b", {"train": (IMAGES, LABELS)}, NAMES)
    fingerprint = "content 1a0de370a991e976d83fadcb7fa6174f"
    assert Pack(tmp_path / "a").fingerprint == Pack(tmp_path / "b").fingerprint == fingerprint


@pytest.mark.parametrize("name", ["group", "fold", "weight", "age"])
def test_those_that_decide_what_is_trained_on_are_in_the_fingerprint(tmp_path: Path, name: str) -> None:
    one, other = (packed(tmp_path / str(way), {name: COLUMNS[name][::way]}) for way in (1, -1))
    assert (one.fingerprint == other.fingerprint) == (name == "age")


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    packed(tmp_path / "pack", COLUMNS)
    file = tmp_path / "pack" / "columns.parquet"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="its content is not what was written"):
        Pack(tmp_path / "pack")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([1, 2], "Scans.read: the train split has a list as columns; give {'group': groups}"),
        ({"age": [1, 2]}, "Scans.read: the train split: the column age has shape [2], but there are 40 images"),
        ({"age": LABELS.astype(complex)}, "is complex128; give numbers or text"),
        ({"group": ["a", ""] * 20}, "the column group is empty for image 1; give every image a group"),
        ({"fold": LABELS + 0.5}, "has values that are not 0, 1, 2 and so on"),
        ({"fold": LABELS - 1}, "has values that are not 0, 1, 2 and so on"),
        ({"fold": LABELS.astype(str)}, "the column fold is <U21; give numbers"),
        (
            {"fold": np.where(LABELS == 3, 4, LABELS)},
            "the fold column has no image in fold 3; give at least",
        ),
        ({"fold": LABELS * 0}, "has no image in fold 1; give at least two"),
        ({"weight": LABELS}, "has values that are no positive numbers"),
        ({"weight": LABELS + np.inf}, "has values that are no positive numbers"),
    ],
)
def test_that_cannot_be_used(columns: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        checked("Scans", {"train": (IMAGES, LABELS, columns)}, NAMES, (1, 8, 8))
    assert words in str(error.value)


def test_every_split_has_the_same() -> None:
    with pytest.raises(UserError, match="other columns for one split than for another; give each the same"):
        checked("Scans", {"train": (IMAGES, LABELS, COLUMNS), "val": (IMAGES, LABELS)}, NAMES, (1, 8, 8))
