import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from scripts.audit import main

Audited = tuple[int, dict[str, Any], str]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of two photographs, in two classes and two splits."""
    root = tmp_path_factory.mktemp("tiles")
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        for number in range(12):
            row, column = divmod(number, 4)
            tile = pixels[140 * row : 140 * row + 120, 160 * column : 160 * column + 120]
            folder = root / ("val" if number > 9 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tile).save(folder / f"{number}.jpg", quality=95)
    return root


@pytest.fixture
def photos(tiles: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiles, tmp_path / "images"))


@pytest.fixture
def audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Audited]:
    """Runs the command on the folder of photographs; exit status, what it wrote, what it printed."""

    def run(*flags: str) -> Audited:
        file = tmp_path / "audit.json"
        given = ["--data", "datamodules.image_folder.ImageFolder", "--data.root", str(tmp_path)]
        with pytest.raises(SystemExit) as exit_:
            main(["--json", str(file), *given, *flags])
        assert isinstance(exit_.value.code, int)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return exit_.value.code, json.loads(file.read_text()) if file.exists() else {}, printed.out + printed.err

    return run


def pairs(found: list[dict[str, Any]]) -> list[set[str]]:
    return [{image["name"] for image in pair["images"]} for pair in found]


def test_a_clean_folder_is_clean(photos: Path, audited: Callable[..., Audited]) -> None:
    status, found, printed = audited()
    assert status == 0
    assert found["clean"] is True
    assert found["images"] == 24
    assert found["sizes"] == {"120x120": 24}
    assert found["modes"] == {"RGB": 24}
    assert found["class_names"] == ["china", "flower"]
    counts = found["images_per_class"]
    assert counts["val"] == [2, 2]
    assert [sum(of_class) for of_class in zip(counts["train"], counts["test"], strict=True)] == [10, 10]
    assert min(counts["train"]) > 0
    for kind in ("unreadable", "stray_files", "exact_duplicates", "near_duplicates", "leakage", "label_conflicts"):
        assert found[kind] == []
    assert "(china)" in printed


def test_names_files_that_give_no_image_and_draws_splits_from_the_others(
    photos: Path, audited: Callable[..., Audited], tmp_path: Path
) -> None:
    whole = (photos / "train/china/1.jpg").read_bytes()
    (photos / "train/china/1.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "train/flower/1.jpg").write_text("a flower")
    (photos / "val/china/10.jpg").write_bytes(b"")
    page = tmp_path / "page.html"
    status, found, printed = audited("--html", str(page))
    assert status == 1
    assert "<li>train/flower/1.jpg: it is no image</li>" in page.read_text()
    assert re.search(r"<tr><th>china</th>(<td class=.number.>\d</td>){3}</tr>", page.read_text())
    reasons = {image["name"]: image["reason"] for image in found["unreadable"]}
    assert "truncated" in reasons.pop("train/china/1.jpg")
    assert reasons == {"train/flower/1.jpg": "it is no image", "val/china/10.jpg": "the file is empty"}
    assert sum(map(sum, found["images_per_class"].values())) == 21
    assert "train/china/1.jpg" in printed


def test_tells_when_no_file_is_readable(photos: Path, audited: Callable[..., Audited]) -> None:
    for file in photos.rglob("*.jpg"):
        file.write_bytes(b"")
    status, found, _ = audited()
    assert status == 1
    assert len(found["unreadable"]) == 24
    assert found["splits_problem"]


def test_finds_the_same_pixels_within_and_across_splits_and_labels(
    photos: Path, audited: Callable[..., Audited]
) -> None:
    shutil.copy(photos / "train/china/3.jpg", photos / "train/china/again.jpg")
    Image.open(photos / "train/flower/4.jpg").save(photos / "val/flower/other.png")  # same pixels, another file
    shutil.copy(photos / "train/china/5.jpg", photos / "train/flower/china.jpg")
    status, found, printed = audited("--data.test_size", "1")
    assert "\\n" not in printed
    within = {"train/china/3.jpg", "train/china/again.jpg"}
    across = {"train/flower/4.jpg", "val/flower/other.png"}
    conflict = {"train/china/5.jpg", "train/flower/china.jpg"}
    assert status == 1
    assert sorted(map(sorted, pairs(found["exact_duplicates"]))) == sorted(map(sorted, (within, across, conflict)))
    assert across in pairs(found["leakage"])
    assert pairs(found["label_conflicts"]) == [conflict]
    assert found["near_duplicates"] == []
    for pair in found["leakage"]:
        first, second = pair["images"]
        assert first["split"] != second["split"]
        assert second["split"] != "train"


def test_finds_leakage_between_splits_that_are_drawn(photos: Path, audited: Callable[..., Audited]) -> None:
    for file in sorted((photos / "train").rglob("*.jpg")):
        shutil.copy(file, file.with_stem(f"{file.stem}-again"))
    _, found, _ = audited()
    assert any({image["split"] for image in pair["images"]} == {"train", "test"} for pair in found["leakage"])


def test_finds_one_picture_saved_in_two_ways(photos: Path, audited: Callable[..., Audited]) -> None:
    image = Image.open(photos / "train/china/6.jpg")
    image.save(photos / "train/china/again.jpg", quality=40)
    image = Image.open(photos / "train/flower/2.jpg")
    ImageEnhance.Brightness(image).enhance(1.1).save(photos / "val/flower/brighter.png")
    image = Image.open(photos / "train/flower/8.jpg")
    image.resize((80, 80)).save(photos / "train/china/smaller.png")
    status, found, _ = audited("--data.test_size", "1")
    again = {"train/china/6.jpg", "train/china/again.jpg"}
    brighter = {"train/flower/2.jpg", "val/flower/brighter.png"}
    smaller = {"train/flower/8.jpg", "train/china/smaller.png"}
    assert status == 1
    assert sorted(map(sorted, pairs(found["near_duplicates"]))) == sorted(map(sorted, (again, brighter, smaller)))
    assert brighter in pairs(found["leakage"])
    assert pairs(found["label_conflicts"]) == [smaller]
    assert found["exact_duplicates"] == []
    assert not any(pair["exact"] for pair in found["near_duplicates"])


def test_finds_stray_files(photos: Path, audited: Callable[..., Audited]) -> None:
    (photos / "train/china/.DS_Store").touch()
    (photos / "notes.txt").touch()
    status, found, printed = audited()
    assert status == 1
    assert found["stray_files"] == ["notes.txt", "train/china/.DS_Store"]
    assert "notes.txt" in printed


def test_images_of_other_classes_are_left_out(photos: Path, audited: Callable[..., Audited]) -> None:
    shutil.copytree(photos / "train/china", photos / "train/other")
    assert audited()[0] == 1
    status, found, _ = audited("--data.classes", "[flower,china]")
    assert status == 0
    assert found["class_names"] == ["flower", "china"]
    assert found["images"] == 24


def test_many_classes_are_summed_up(photos: Path, audited: Callable[..., Audited], tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (120, 16, 16, 3), np.uint8)
    for number, noise in enumerate(levels):
        folder = tmp_path / "many" / f"class{number % 30:02}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(folder / f"{number}.png")
    status, found, printed = audited("--data.folder", "many")
    assert status == 0
    assert len(found["class_names"]) == 30
    assert "most of a class" in printed
    assert printed.count("class") < 15


def test_images_in_arrays_are_named_by_their_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--json", str(tmp_path / "audit.json")])
    assert exit_.value.code == 0
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["images"] == 1797
    assert found["sizes"] == {"8x8": 1797}
    assert "1,797 images of Digits" in capsys.readouterr().out


def test_a_name_of_no_known_encoding_is_told(photos: Path, audited: Callable[..., Audited], tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 <b>&.jpg")
    shutil.copy(photos / "train/china/3.jpg", photos / "train/china" / name)
    status, found, printed = audited("--html", str(tmp_path / "page.html"))
    assert status == 1
    assert {"train/china/caf\\xe9 <b>&.jpg", "train/china/3.jpg"} in pairs(found["exact_duplicates"])
    assert "\\xe9" in printed
    assert "caf\\xe9 &lt;b&gt;&amp;.jpg" in (tmp_path / "page.html").read_text()


def test_what_cannot_be_read_or_written_is_one_sentence(
    photos: Path, audited: Callable[..., Audited], tmp_path: Path
) -> None:
    for flags, expected in (
        (("--data.root", str(tmp_path / "none")), "cannot be read from"),
        (("--html", str(tmp_path / "none" / "page.html")), "cannot be written"),
        (("--html", str(tmp_path)), "cannot be written"),
        (("--data.rot", "x"), "rot"),
    ):
        status, found, printed = audited(*flags)
        assert status == 2
        assert found == {}, "nothing is begun"
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
        assert expected in printed


def test_writes_the_split_of_every_image_that_is_used(
    photos: Path, audited: Callable[..., Audited], tmp_path: Path
) -> None:
    file = tmp_path / "splits.csv"
    status, found, _ = audited("--splits", str(file), "--data.limit", "0.5")
    assert status == 0
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert list(rows[0]) == ["path", "class", "group", "split"]
    for row in rows:
        assert (photos / row["path"]).is_file()
        assert row["path"].split("/")[1] == row["class"]
        assert row["group"] == ""
    for split, numbers in found["images_per_class"].items():
        assert sum(row["split"] == split for row in rows) == sum(numbers)
    assert len(rows) == 12
    before = file.read_bytes()
    status, _, printed = audited("--splits", str(file), "--data.val_size", "0.1", "--data.test_size", "24")
    assert status == 2
    assert f"{file}: data.test_size asks for 24 of" in printed
    assert file.read_bytes() == before


def test_splits_of_groups_are_read_again_as_they_were_drawn(
    photos: Path, audited: Callable[..., Audited], tmp_path: Path
) -> None:
    files = sorted(file.relative_to(photos) for file in photos.rglob("*.jpg"))
    rows = [(str(file), file.parent.name, f"{file.parent.name} in row {int(file.stem) // 2}") for file in files]
    with (tmp_path / "photos.csv").open("w", newline="") as text:
        csv.writer(text).writerows([("path", "label", "row"), *rows])
    table = ("--data", "ImageTable", "--data.folder", "images", "--data.val_size", "0.2")
    file = tmp_path / "splits.csv"
    status, drawn, _ = audited(*table, "--data.table", "photos.csv", "--data.group", "row", "--splits", str(file))
    assert status == 0
    assert {path: group for path, *_, group in rows} == {
        name: group for group, names in drawn["images_of_groups"].items() for name in names
    }
    again = ("--data.table", "splits.csv", "--data.split", "split", "--data.group", "group")
    status, given, _ = audited(*table, *again)
    assert status == 0
    assert given["images_per_class"] == drawn["images_per_class"]
    assert min(sum(numbers) for numbers in given["images_per_class"].values()) > 0
    file.write_text(file.read_text().replace("test", "train", 1))
    status, given, printed = audited(*table, *again)
    assert status == 1
    assert len(given["groups_across_splits"]) == 1
    assert "groups in several splits" in printed
