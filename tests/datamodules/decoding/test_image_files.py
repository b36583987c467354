import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.decoding.image_files import (
    ImageFiles,
    TryDecode,
    files_under,
    fingerprint_files,
    folders_in,
    images_in,
    images_under,
    listed,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, scan in enumerate(load_digits().images[:6]):
        file = tmp_path / "train" / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((scan * 15).astype(np.uint8)).save(file)
    return tmp_path


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


def test_junk_is_never_found(folder: Path) -> None:
    before = images_under(folder, folder), folders_in(folder / "train"), fingerprint_files(folder)
    for junk in ("__MACOSX/train", ".git", "train/.hidden", "train/@eaDir", "train/0/.AppleDouble"):
        (folder / junk).mkdir(parents=True)
        (folder / junk / "0.png").write_bytes(b"x")
    for junk in (".DS_Store", "train/Thumbs.db", "train/0/._0.png"):
        (folder / junk).write_bytes(b"x")
    assert before == (images_under(folder, folder), folders_in(folder / "train"), fingerprint_files(folder))


def test_follows_links_and_survives_one_to_nothing(folder: Path) -> None:
    (folder / "train" / "0" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "train" / "2").symlink_to(folder / "train" / "1")
    fingerprint_files(folder)
    assert "train/2/1.png" in images_under(folder, folder)
    assert images_in(folder / "train" / "0") == ["0.png", "2.png", "4.png", "gone.png"]
    assert len(list(files_under(folder))) == 10


def test_the_fingerprint_changes_with_name_size_and_time(folder: Path) -> None:
    file = folder / "train" / "0" / "0.png"
    seen = [fingerprint_files(folder)]
    assert fingerprint_files(folder) == seen[0]
    facts, alone = file.stat(), fingerprint_files(file)
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert fingerprint_files(file) != alone
    seen.append(fingerprint_files(folder))
    os.utime(file, ns=(0, 0))
    seen.append(fingerprint_files(folder))
    file.write_bytes(b"x")
    os.utime(file, ns=(0, 0))
    seen.append(fingerprint_files(folder))
    file.rename(file.with_name("9.png"))
    seen.append(fingerprint_files(folder))
    file.with_name("9.png").rename(folder / "train" / "1" / "9.png")
    seen.append(fingerprint_files(folder))
    assert len(set(seen)) == len(seen)
    alone = fingerprint_files(folder / "train" / "1" / "9.png")
    os.utime(folder / "train" / "1" / "9.png", ns=(1, 1))
    assert fingerprint_files(folder / "train" / "1" / "9.png") != alone
