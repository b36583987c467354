from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.decoding.image_files import listed
from datamodules.digits import Digits
from datamodules.packing.source_check import checked

IMAGES = (load_digits().images[:40, None] * 15).astype(np.uint8)
LABELS = load_digits().target[:40].astype(np.int64)
NAMES = tuple("0123456789")


def sentence(source: Any, names: Any = NAMES, shape: Any = (1, 8, 8)) -> str:
    with pytest.raises(UserError) as error:
        checked("Scans", source, names, shape)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    return str(error.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "Scans.read: it returns nothing; return {'train': (images, labels)}"),
        ([IMAGES, LABELS], "Scans.read: it returns a list; return"),
        ({}, "returns the splits []"),
        ({"val": (IMAGES, LABELS)}, "returns the splits ['val']; return {'train'"),
        ({"train": (IMAGES, LABELS), "Test": (IMAGES, LABELS)}, "returns the splits ['train', 'Test']"),
        ({"train": IMAGES}, "returns a ndarray for the train split"),
    ],
)
def test_splits(source: Any, words: str) -> None:
    assert words in sentence(source)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (None, "are nothing; give an array"),
        (IMAGES.tolist(), "are a list; give an array uint8 [N, 1, 8, 8] of 0 to 255"),
        (IMAGES / 255, "are float64; give an array uint8 [N, 1, 8, 8] of 0 to 255, as by"),
        (IMAGES.astype(np.float32), "are float32; give an array uint8"),
        (IMAGES.astype(np.int16) * 128, "are int16; give an array uint8"),
        (IMAGES > 100, "are bool; give an array uint8"),
        (torch.from_numpy(IMAGES).float(), "are float32; give an array uint8"),
        (IMAGES.astype(str), "or files by datamodules.decoding.image_files.listed"),
        (IMAGES[:, 0], "of shape [40, 8, 8], but image_shape says [N, 1, 8, 8]; make one fit the other"),
        (IMAGES.transpose(0, 2, 3, 1), "of shape [40, 8, 8, 1], but image_shape says [N, 1, 8, 8]; make one"),
        (IMAGES.repeat(3, axis=1), "of shape [40, 3, 8, 8], but image_shape says [N, 1, 8, 8]; make one"),
        (listed(Path(), {"train": [("a.png", 0)]}, (3, 8, 8))["train"][0], "of shape [1, 3, 8, 8], but"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_images(images: Any, words: str, split: str) -> None:
    told = sentence({"train": (IMAGES, LABELS)} | {split: (images, LABELS)})
    assert told.startswith(f"Scans.read: the {split} images are ")
    assert words in told


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS[1:], "are int64 of shape [39]; give for each of 40 images a whole number"),
        (np.eye(10)[LABELS], "are float64 of shape [40, 10]; give for each of 40 images a whole number"),
        (LABELS[:, None], "of shape [40, 1]; give for each of 40 images a whole number"),
        (LABELS.astype(str), "the place of its class in class_names, as by"),
        ([NAMES[label] for label in LABELS], "class_names.index(name)"),
        (np.where(LABELS[2] == LABELS, np.nan, LABELS), "are float64 of shape [40]; give"),
        (LABELS.astype(np.float32), "are float32 of shape [40]; give"),
        (LABELS > 4, "are bool of shape [40]; give"),
        (LABELS + 1, "the train labels have 10 for image 9, outside the 10 classes, 0 to 9; correct"),
        (LABELS - 1, "the train labels have -1 for image 0, outside"),
    ],
)
def test_labels(labels: Any, words: str) -> None:
    assert words in sentence({"train": (IMAGES, labels)})


@pytest.mark.parametrize("labels", [LABELS.astype(np.uint8), LABELS.tolist(), torch.from_numpy(LABELS)])
def test_any_whole_numbers_are_labels(labels: Any) -> None:
    given = checked("Scans", {"train": [IMAGES, labels]}, NAMES, (1, 8, 8))["train"][1]
    assert given.dtype == np.int64
    assert np.array_equal(given, LABELS)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"class_names": ("a", "b", "a")}, "class_names is ('a', 'b', 'a'); give each class a text of its own"),
        ({"class_names": ("a", 3)}, "class_names is ('a', 3); give each class"),
        ({"class_names": ("a", "")}, "class_names is ('a', ''); give each class"),
        ({"class_names": "cat"}, "class_names is 'cat'; give each class a text"),
        ({"class_names": None}, "class_names is None"),
        ({"image_shape": (8, 8)}, "image_shape is (8, 8); give channels, height and width"),
        ({"image_shape": (0, 8, 8)}, "image_shape is (0, 8, 8)"),
        ({"image_shape": (1, 8.0, 8)}, "image_shape is (1, 8.0, 8)"),
        ({"image_shape": None}, "image_shape is None"),
    ],
)
def test_what_a_data_set_declares(declared: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        type("Scans", (Digits,), declared)()
    assert str(error.value).startswith(f"Scans.{words}")


@pytest.mark.filterwarnings("ignore:Named tensors")  # of older versions of torch
@pytest.mark.parametrize(
    "other",
    [
        IMAGES.astype(np.uint16),
        torch.from_numpy(IMAGES.astype(np.uint16)),
        listed(Path(), {"val": [("a.png", 0)]}, (1, 8, 8))["val"][0],
    ],
)
def test_splits_have_one_kind_of_images(other: Any) -> None:
    labels = np.zeros(len(other), np.int64)
    told = sentence({"train": (IMAGES, LABELS), "val": (other, labels)})
    assert "for different splits; give all as files, uint8 or uint16" in told
    images = torch.from_numpy(IMAGES)
    images.names = (None,) * 4  # type: ignore[attr-defined]  # as every tensor of older versions of torch has them
    alike = {"train": (IMAGES, LABELS), "val": (images, LABELS)}
    assert [*checked("Scans", alike, NAMES, (1, 8, 8))] == ["train", "val"]


def test_is_asked_before_anything_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "read", lambda self: {"train": (IMAGES / 255, LABELS)})
    with pytest.raises(UserError, match=r"Digits\.read: the train images are float64"):
        Digits(root=tmp_path).prepare_data()
    assert not [path for path in (tmp_path / "packs").iterdir() if path.suffix != ".lock"]
