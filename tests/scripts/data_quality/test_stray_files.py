from pathlib import Path

import pytest
from PIL import Image

from datamodules.digits import Digits
from datamodules.image_folder import ImageFolder
from datamodules.tiny_imagenet import TinyImageNet
from scripts.data_quality.stray_files import stray_files


@pytest.fixture
def tiny(tmp_path: Path) -> TinyImageNet:
    folder = tmp_path / "tiny-imagenet-200"
    for wnid in ("n01", "n02", "n03"):  # the last is no class
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (64, 64)).save(images / f"{wnid}_{number}.JPEG")
        (images.parent / f"{wnid}_boxes.txt").touch()
    for split in ("val", "test"):
        (folder / split / "images").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(folder / split / "images" / f"{split}_0.JPEG")
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t1\t1\n")
    (folder / "wnids.txt").write_text("n01\nn02")
    (folder / "words.txt").write_text("n01\tfirst\nn02\tsecond\n")
    return TinyImageNet(root=tmp_path)


def test_what_belongs_there_is_not_stray_and_a_folder_that_does_not_is_one_line(tiny: TinyImageNet) -> None:
    folder = tiny.source_folder
    (folder / ".DS_Store").touch()
    (folder / "val" / "images" / "val_9.JPEG").touch()
    (folder / "junk" / "deep").mkdir(parents=True)
    for name in ("junk/a.txt", "junk/deep/b.txt"):
        (folder / name).touch()
    stray, lines = stray_files(tiny, tiny.read())
    unlisted = [f"train/n03/images/n03_{number}.JPEG" for number in range(3)]
    assert stray == [".DS_Store", "junk/a.txt", "junk/deep/b.txt", *unlisted, "val/images/val_9.JPEG"]
    reasons, *lines = lines
    assert reasons == "2 no image (junk/a.txt, ...), 4 not in a class (train/n03/images/n03_0.JPEG, ...)"
    assert lines == ["train/n03/images/ (3 files)", "junk/ (2 files)", ".DS_Store", "val/images/val_9.JPEG"]


def test_links_are_followed_and_packs_are_not_data(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / name / "0.png")
    (tmp_path / "elsewhere" / "cat" / "notes.txt").touch()
    (tmp_path / "data" / "packs").mkdir(parents=True)
    (tmp_path / "data" / "packs" / "images.npy").touch()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "elsewhere")
    data = ImageFolder(root=tmp_path / "data", folder=Path())
    assert stray_files(data, data.read())[0] == ["train/cat/notes.txt"]


def test_arrays_have_none() -> None:
    data = Digits()
    assert stray_files(data, data.read()) == ([], [])
