import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.decoding.find_files import images_under
from datamodules.decoding.folder_fingerprint import fingerprint_files
from datamodules.decoding.image_files import ImageFiles, TryDecode, listed


def test_says_of_each_that_it_cannot_decode_why(folder: Path) -> None:
    (folder / "train" / "0" / "2.png").write_text("text")
    images = ImageFiles(folder, np.array([b"train/0/0.png", b"train/0/2.png", b"none.png"]), (1, 8, 8))
    chunk, errors = TryDecode(images)[range(3)]
    assert np.array_equal(chunk[0], images.read(0))
    assert not chunk[1:].any()
    assert errors == {1: "it is no image", 2: "the file is not there"}


def test_decodes_what_is_asked_for(folder: Path) -> None:
    names = images_under(folder, folder)
    ((images, labels),) = listed(folder, {"train": [(name, int(name[6])) for name in names]}, (1, 8, 8)).values()
    assert images.shape == (6, 1, 8, 8)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    scans = (load_digits().images[[5, 0]] * 15).astype(np.uint8)
    assert np.array_equal(images[np.array([5, 0])][:, 0], scans)


def test_names_the_file_that_gives_no_image(folder: Path) -> None:
    (folder / "train" / "0" / "0.png").write_bytes(b"")
    images = ImageFiles(folder, np.array([b"train/0/2.png", b"train/0/0.png"]), (1, 8, 8))
    with pytest.raises(UserError, match=r"train/0/0\.png: the file is empty, though"):
        images[np.array([0, 1])]


def test_names_need_not_be_text(folder: Path) -> None:
    name = b"train/0/\xff\n\xfe.png"
    (folder / "train" / "0" / "0.png").rename(os.path.join(folder, os.fsdecode(name)))  # noqa: PTH118
    images = listed(folder, {"train": [(os.fsdecode(name), 0)]}, (1, 8, 8))["train"][0]
    assert images[np.array([0])].shape == (1, 1, 8, 8)
    assert os.fsdecode(name) in images_under(folder, folder)
    fingerprint_files(folder)
