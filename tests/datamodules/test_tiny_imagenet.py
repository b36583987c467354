from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from core.user_error import UserError
from datamodules.tiny_imagenet import TinyImageNet

WNIDS = {"n02124075": "Egyptian cat", "n04067472": "reel", "n04540053": "volleyball"}


def write_source(root: Path, per_class: int = 12, **_: Any) -> Path:
    """The distributed layout with cuttings of two real photographs."""
    folder = root / "tiny-imagenet-200"
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    annotations: list[str] = []
    for label, wnid in enumerate(WNIDS):
        for row in range(per_class + 4):
            left, top = 16 * row, 64 * label
            cutting = photos[row % 2].crop((left, top, left + 64, top + 64))
            if row < per_class:
                file = folder / "train" / wnid / "images" / f"{wnid}_{row}.JPEG"
            else:
                file = folder / "val" / "images" / f"val_{len(annotations)}.JPEG"
                annotations.append(f"{file.name}\t{wnid}\t0\t32\t44\t62\n")
            file.parent.mkdir(parents=True, exist_ok=True)
            (cutting.convert("L") if row == 1 else cutting).save(file)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (folder / "words.txt").write_text("".join(f"{wnid}\t{name}, another\n" for wnid, name in WNIDS.items()))
    (folder / "val" / "val_annotations.txt").write_text("".join(annotations))
    return folder


def prepared(root: Path, **arguments: Any) -> TinyImageNet:
    data = TinyImageNet(root=root, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def test_reads_the_distributed_layout(tmp_path: Path) -> None:
    folder = write_source(tmp_path)
    data = prepared(tmp_path)
    assert list(data.class_names) == ["Egyptian cat", "reel", "volleyball"]
    assert {name: len(indices) for name, indices in data.splits.items()} == {"train": 36, "val": 12, "test": 12}
    assert data.pack is not None
    assert data.pack.names is not None
    for split in ("train", "val"):
        images, labels = data.pack[data.splits[split]]
        for image, label, index in zip(images, labels.tolist(), data.splits[split].tolist(), strict=True):
            name = data.pack.names[index].decode()
            with Image.open(folder / name) as file:
                assert np.array_equal(image.numpy().transpose(1, 2, 0), np.asarray(file.convert("RGB")))
            assert split == "val" or list(WNIDS)[label] in name
    annotations = dict(
        line.split("\t")[:2] for line in (folder / "val" / "val_annotations.txt").read_text().splitlines()
    )
    for index, label in zip(data.splits["val"].tolist(), data.pack.labels[data.splits["val"]].tolist(), strict=True):
        assert annotations[Path(data.pack.names[index].decode()).name] == list(WNIDS)[label]


def test_says_that_validation_is_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_source(tmp_path)
    data = prepared(tmp_path)
    data.setup("test")
    assert data.splits["val"].tolist() == data.splits["test"].tolist()
    assert capsys.readouterr().out.count("labels of others are not public") == 1


def test_stray_files_and_unlisted_folders_do_no_harm(tmp_path: Path) -> None:
    folder = write_source(tmp_path)
    before = prepared(tmp_path)
    some = folder / "train" / "n02124075" / "images" / "n02124075_0.JPEG"
    for stray in (
        *("train/.DS_Store", "train/n02124075/.DS_Store", "train/n02124075/images/.DS_Store", "val/.DS_Store"),
        *("train/n00000000/images/a.JPEG", "train/n02124075/images/images/a.JPEG", "val/images/unlisted.JPEG"),
        *("test/images/test_0.JPEG", "notes.txt"),
    ):
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_bytes(some.read_bytes())
    with (folder / "val" / "val_annotations.txt").open("a") as file:
        file.write("unlisted.JPEG\tn00000000\t0\t0\t1\t1\n")
    after = prepared(tmp_path)
    assert before.pack is not None
    assert after.pack is not None
    assert after.pack.labels.tolist() == before.pack.labels.tolist()
    assert np.array_equal(after.pack.names, before.pack.names)  # type: ignore[arg-type]


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"words\.txt: No such file.*cs231n.*--data\.download true"):
        TinyImageNet(root=tmp_path)
    folder = write_source(tmp_path)
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\n")
    with pytest.raises(UserError, match=r"val_annotations\.txt has the line 'val_0\.JPEG'"):
        prepared(tmp_path)


def test_a_class_without_a_known_name_goes_by_its_number(tmp_path: Path) -> None:
    folder = write_source(tmp_path)
    (folder / "words.txt").write_text("n04067472\treel\n")
    assert list(TinyImageNet(root=tmp_path).class_names) == ["n02124075", "reel", "n04540053"]


@pytest.mark.parametrize("how", ["removed", "unreadable"])
def test_names_a_class_that_has_no_training_image(tmp_path: Path, how: str) -> None:
    folder = write_source(tmp_path)
    for image in (folder / "train" / "n04067472" / "images").iterdir():
        image.unlink() if how == "removed" else image.write_bytes(b"")
    with pytest.raises(UserError, match=r"The class reel has no training image left by the splits and data.limit; add"):
        prepared(tmp_path, on_corrupt="skip")
    assert prepared(tmp_path, on_corrupt="skip", classes=["volleyball", "Egyptian cat"]).class_counts == [12, 12]


def test_a_name_of_no_known_encoding_does_no_harm(tmp_path: Path) -> None:
    folder = write_source(tmp_path)
    (folder / "words.txt").write_bytes(b"n02124075\tcaf\xe9 cat\nn04067472\treel\n\n")
    data = TinyImageNet(root=tmp_path, classes=["reel", "caf\udce9 cat"])
    assert data.source_class_names == ["caf\\xe9 cat", "reel", "n04540053"]
    assert list(data.class_names) == ["reel", "caf\\xe9 cat"]


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folder = write_source(tmp_path)
    (folder / "words.txt").write_text("n02124075\tcrane\nn04067472\treel\nn04540053\tcrane, machine\n")
    data = prepared(tmp_path)
    assert list(data.class_names) == ["crane", "reel", "crane (2)"]
    assert data.class_counts == [12, 12, 12]
