import csv
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.image_table import ImageTable
from tests.conftest import Run

SCANS = (load_digits().images * 15).astype(np.uint8)
LABELS = load_digits().target % 3
NAMES = ("nought", "one", "two")
HEAD = ("path", "label")


def write_scans(folder: Path, count: int = 60, ending: str = ".png") -> list[tuple[str, str]]:
    """Real scans of digits; the path and the class of each."""
    rows = []
    for number in range(count):
        file = folder / f"{number:03d}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SCANS[number]).save(file)
        rows.append((file.name, NAMES[LABELS[number]]))
    return rows


def write_table(file: Path, head: Sequence[str], rows: Iterable[Sequence[Any]], separator: str = ",") -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, delimiter=separator).writerows([head, *rows])


def write_source(root: Path, table: str = "train.csv", folder: str = "", **_: Any) -> None:
    """As Kaggle lays out a competition: ids, and their images in a folder."""
    rows = write_scans(root / folder)
    write_table(root / table, ("id", "label"), [(name.partition(".")[0], label) for name, label in rows])


def prepared(root: Path, **arguments: Any) -> ImageTable:
    given: dict[str, Any] = {"image_size": 8, "channels": 1, "table": "t.csv"} | arguments
    data = ImageTable(root=root, **given)
    data.prepare_data()
    data.setup("fit")
    return data


def refusal(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        prepared(root, **arguments)
    assert "\n" not in str(error.value)
    assert str(error.value)[-1] in ".?"
    assert not [path for path in root.glob("packs/*") if path.is_dir()]
    return str(error.value)


def by_pixels(data: ImageTable) -> dict[bytes, str]:
    assert data.pack is not None
    images, labels = data.pack[torch.arange(len(data.pack))]
    return {image.numpy().tobytes(): data.class_names[label] for image, label in zip(images, labels, strict=True)}


EXPECTED = {SCANS[number].tobytes(): NAMES[LABELS[number]] for number in range(60)}


@pytest.mark.parametrize("storage", ["packed", "files"])
def test_reads_what_the_table_says(tmp_path: Path, storage: str) -> None:
    write_table(tmp_path / "t.csv", HEAD, write_scans(tmp_path))
    data = prepared(tmp_path, storage=storage, num_workers=0)
    assert data.class_names == list(NAMES)
    assert by_pixels(data) == EXPECTED


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["", ".png"])
@pytest.mark.parametrize(("before", "folder"), [("", "a b/in"), ("in/", "a b"), ("./in//", "a b"), ("in\\", "a b")])
def test_paths_begin_in_the_folder_and_may_lack_their_ending(
    tmp_path: Path, separator: str, ending: str, before: str, folder: str
) -> None:
    rows = [(before + name.replace(".png", ending), label) for name, label in write_scans(tmp_path / "a b" / "in")]
    (tmp_path / "a b" / "in" / "000.txt").write_text("beside an image")
    write_table(tmp_path / "t.csv", HEAD, rows, separator)
    assert by_pixels(prepared(tmp_path, folder=folder)) == EXPECTED


def test_paths_may_be_absolute_or_relative_to_the_table(tmp_path: Path) -> None:
    rows = write_scans(tmp_path / "photos" / "in")
    write_table(tmp_path / "t.csv", HEAD, [(tmp_path / "photos" / "in" / name, label) for name, label in rows])
    assert by_pixels(prepared(tmp_path)) == by_pixels(prepared(tmp_path, folder="photos")) == EXPECTED
    write_table(tmp_path / "photos" / "t.csv", HEAD, [(f"in/{name}", label) for name, label in rows])
    assert by_pixels(prepared(tmp_path, table="photos/t.csv")) == EXPECTED


def test_ids_may_be_those_of_arrays(tmp_path: Path) -> None:
    rows = [(f"{number}.v2", NAMES[LABELS[number]]) for number in range(60)]
    for number, (name, _) in enumerate(rows):
        np.save(tmp_path / f"{name}.npy", SCANS[number])
        (tmp_path / f"{name}.txt").write_text("beside an array")
    write_table(tmp_path / "t.csv", HEAD, rows)
    assert by_pixels(prepared(tmp_path)) == EXPECTED


def test_a_table_of_parquet_is_the_same(tmp_path: Path) -> None:
    names, labels = zip(*write_scans(tmp_path), strict=True)
    pq.write_table(
        pa.table({"file_name": names, "Class": pa.array(labels).dictionary_encode()}), tmp_path / "t.parquet"
    )
    assert by_pixels(prepared(tmp_path, table="t.parquet")) == EXPECTED


def test_one_line_says_which_columns_were_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(number, *row, number % 5, "f") for number, row in enumerate(write_scans(tmp_path))]
    write_table(tmp_path / "t.csv", ("", "Image", "target", "fold", "sex"), rows)
    data = prepared(tmp_path)
    assert "t.csv: path from Image; label from target; carried along, deciding nothing: fold, sex\n" in (
        capsys.readouterr().out
    )
    assert data.pack is not None
    assert list(data.pack.columns) == ["fold (table)", "sex"]


def test_columns_say_split_group_fold_and_weight(tmp_path: Path) -> None:
    splits = ("train", "Training", "valid", "test")
    rows = [
        (*row, f"00{number // 20}", splits[number // 15], number % 5, 1.5)
        for number, row in enumerate(write_scans(tmp_path))
    ]
    rows.sort(key=lambda row: row[0][::-1])
    write_table(tmp_path / "t.csv", (*HEAD, "patient", "use", "cv", "w"), rows)
    data = ImageTable(root=tmp_path, table="t.csv", image_size=8, split="use", fold_column="cv", weight="w")
    source = data.read()
    assert {split: len(part[1]) for split, part in source.items()} == {"train": 30, "val": 15, "test": 15}
    _, _, columns = source["train"]  # type: ignore[misc]
    assert columns["fold"].tolist() == [row[4] for row in rows if row[3] in splits[:2]]
    assert set(columns["weight"]) == {1.5}
    assert columns["patient"].tolist() == [row[2] for row in rows if row[3] in splits[:2]]
    group = ImageTable(root=tmp_path, table="t.csv", image_size=8, group="patient").read()["train"][2]  # type: ignore[misc]
    assert group["group"].tolist() == [row[2] for row in rows]


def test_numbers_are_classes_in_their_order_and_may_have_names(tmp_path: Path) -> None:
    rows = [(name, number % 12) for number, (name, _) in enumerate(write_scans(tmp_path))]
    write_table(tmp_path / "t.csv", HEAD, rows)
    assert prepared(tmp_path).class_names == [str(number) for number in range(12)]
    (tmp_path / "names.txt").write_text("\n".join(f"class {number}" for number in range(12)) + "\n\n")
    data = prepared(tmp_path, class_names="names.txt")
    assert by_pixels(data) == {SCANS[number].tobytes(): f"class {number % 12}" for number in range(60)}


def test_classes_may_be_columns(tmp_path: Path) -> None:
    rows = [(name, *("1" if label == each else "0.0" for each in NAMES[::-1])) for name, label in write_scans(tmp_path)]
    write_table(tmp_path / "t.csv", ("path", *NAMES[::-1]), rows)
    data = prepared(tmp_path, label=list(NAMES[::-1]))
    assert data.class_names == list(NAMES[::-1])
    assert by_pixels(data) == EXPECTED


def test_an_image_may_have_several_labels(tmp_path: Path) -> None:
    labels = ["a; b", "", "b", "c;a;c"] * 15
    expected = [[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]] * 15
    names = [name for name, _ in write_scans(tmp_path)]
    write_table(tmp_path / "t.csv", HEAD, zip(names, labels, strict=True))
    write_table(
        tmp_path / "columns.csv", ("path", *"abc"), [(name, *row) for name, row in zip(names, expected, strict=True)]
    )
    several: tuple[dict[str, Any], ...] = ({"table": "t.csv"}, {"table": "columns.csv", "label": ["a", "b", "c"]})
    for arguments in several:
        data = ImageTable(root=tmp_path, multi_label=True, **arguments)
        marks = data.read()["train"][1]
        assert data.is_multi_label
        assert marks.dtype == np.uint8
        assert marks.tolist() == expected
    write_table(
        tmp_path / "t.csv",
        HEAD,
        [(name, label.replace("; ", "|").replace(";", "|")) for name, label in zip(names, labels, strict=True)],
    )
    assert (
        ImageTable(root=tmp_path, table="t.csv", multi_label=True, separator="|").read()["train"][1].tolist()
        == expected
    )


def test_a_change_of_the_table_or_of_an_image_makes_a_new_pack(tmp_path: Path) -> None:
    rows = write_scans(tmp_path / "in")

    def pack(**arguments: Any) -> str:
        return prepared(tmp_path, folder="in", **arguments).pack_folder.name

    write_table(tmp_path / "t.csv", HEAD, rows)
    first = pack()
    os.utime(tmp_path / "t.csv", (1, 1))
    assert pack() == pack(seed=3) == first  # what it says has not changed
    write_table(tmp_path / "t.csv", HEAD, [(name, NAMES[1] if name == "003.png" else label) for name, label in rows])
    second = pack()
    os.utime(tmp_path / "in" / "001.png", (1, 1))
    assert len({first, second, pack(), pack(label="label")}) == 4


def test_what_else_lies_about_is_of_no_concern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(tmp_path / "t.csv", HEAD, write_scans(tmp_path))
    (tmp_path / "060.png").write_bytes((tmp_path / "000.png").read_bytes())
    (tmp_path / os.fsdecode(b"not utf-8 \xe9.png")).write_bytes(b"")
    first = prepared(tmp_path).pack_folder  # with the folder of packs beside the images
    assert f"left out of {tmp_path}: 2 not in a class (060.png, ...)\n" in capsys.readouterr().out
    (tmp_path / "runs").mkdir()
    assert prepared(tmp_path).pack_folder == first


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({3: ("gone.png", "one"), 5: ("in/x", "one")}, {}, "gone.png in the column path, in 2 rows (5, 7): "),
        ({3: ("../003.png", "one")}, {}, "../003.png in the column path, in row 5: give in --data.folder a folder"),
        ({3: ("/a/003.png", "one")}, {}, "/a/003.png in the column path, in row 5: give in --data.folder a folder"),
        ({3: ("", "one")}, {}, "nothing in the column path, in row 5: give one in every row, or remove the row"),
        ({3: ("003.png", " "), 8: ("008.png", "")}, {}, "nothing in the column label, in 2 rows (5, 10): give one"),
        ({3: ("002.png", "two")}, {}, "002.png in the column path, in 2 rows (4, 5): 1 images have several rows; keep"),
        ({3: ("002", "one")}, {}, "in 2 rows (4, 5): 1 images have several rows; keep one"),
        ({3: ("003.png", "one;two")}, {}, "one;two in the column label, in row 5: if these are several labels, give"),
        ({}, {"path": "pth"}, "data.path is pth, but ROOT/t.csv has no such column; did you mean path?"),
        ({}, {"label": ["one", "two"]}, "has no such column; name one of path, label, rest."),
        ({}, {"label": ["label", "rest"]}, "nought in the column label, in 60 rows (2, 3, 4, ...): write 0 or 1"),
        ({}, {"split": "label"}, "nought in the column label, in 60 rows (2, 3, 4, ...): write train, val or test"),
        ({}, {"weight": "label"}, "nought in the column label, in 60 rows (2, 3, 4, ...): give a number"),
        ({}, {"weight": "rest"}, "ImageTable.read: the train split: the column weight has values that are no positive"),
        ({}, {"fold_column": "rest"}, "ImageTable: the fold column has no image in fold 2"),
        ({}, {"class_names": "names.txt"}, "(2, 3, 4, ...): names.txt has names for 0 to 1: add"),
        (
            {},
            {"table": "other.csv"},
            "cannot be read from ROOT/other.csv: No such file or directory; say with --data.t",
        ),
        ({}, {"folder": "other"}, "cannot be read from ROOT/other: No such file or directory; say with --data.table"),
        ({}, {"class_names": "no.txt"}, "cannot be read from ROOT/no.txt: No such file"),
        ({}, {"class_names": "latin.txt"}, "ROOT/latin.txt is not UTF-8; save it so, with a class name on each line."),
    ],
)
def test_refuses_what_a_table_may_not_say(
    tmp_path: Path, changes: dict[int, tuple[str, str]], arguments: dict[str, Any], words: str
) -> None:
    rows = [(f"{number:03d}.png", NAMES[number % 3]) for number in range(60)]
    write_scans(tmp_path)
    rest = [(0, 1, 3, 4, 5)[number % 5] for number in range(60)]
    for number, row in changes.items():
        rows[number] = row
    write_table(tmp_path / "t.csv", (*HEAD, "rest"), [(*row, each) for row, each in zip(rows, rest, strict=True)])
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    (tmp_path / "latin.txt").write_bytes("Pûr\nBär\n".encode("latin-1"))
    assert words.replace("ROOT", str(tmp_path)) in refusal(tmp_path, **arguments)


def test_refuses_two_files_of_one_name(tmp_path: Path) -> None:
    rows = [(name[:3], label) for name, label in write_scans(tmp_path)]
    write_scans(tmp_path, 2, ".jpg")
    write_table(tmp_path / "t.csv", HEAD, rows)
    assert "000 in the column path, in 2 rows (2, 3): several images in" in refusal(tmp_path)


@pytest.mark.parametrize(("head", "words"), [(("path", "kind"), "name it with --data.label"), (("p|l",), "put commas")])
def test_refuses_a_table_without_a_column_of_labels(tmp_path: Path, head: Sequence[str], words: str) -> None:
    write_table(tmp_path / "t.csv", head, [row[: len(head)] for row in write_scans(tmp_path)])
    told = refusal(tmp_path)
    assert f"has no column called {'label' if head[1:] else 'path'} or the like, but {', '.join(head)}" in told
    assert words in told


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("label", "three", "three in the column label, in row 61: training has no such label: add some, or remove"),
        ("group", "", "nothing in the column group, in row 61: give one in every row"),
        ("split", "", "nothing in the column split, in row 61: give one in every row"),
        ("split", "unlabelled", "unlabelled in the column split, in row 61: write train, val or test"),
    ],
)
def test_refuses_splits_that_do_not_fit(tmp_path: Path, column: str, value: str, words: str) -> None:
    rows = [
        {"path": name, "label": label, "split": "train" if number < 50 else "test", "group": f"g{number}"}
        for number, (name, label) in enumerate(write_scans(tmp_path))
    ]
    rows[-1] |= {column: value}
    write_table(tmp_path / "t.csv", list(rows[0]), [list(row.values()) for row in rows])
    assert words in refusal(tmp_path, split="split", group="group")


def test_refuses_a_split_without_training(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", (*HEAD, "split"), [(*row, "test") for row in write_scans(tmp_path)])
    assert "training has no such label" in refusal(tmp_path, split="split")


def test_refuses_a_group_in_two_splits(tmp_path: Path) -> None:
    rows = [
        (*row, "test" if number % 20 == 0 else "train", number // 20)
        for number, row in enumerate(write_scans(tmp_path))
    ]
    write_table(tmp_path / "t.csv", (*HEAD, "split", "patient"), rows)
    with pytest.raises(UserError, match=r"The group 0 has images in \w+ and \w+; put all of them into one"):
        prepared(tmp_path, split="split", group="patient")


def test_weights_say_how_often_an_image_is_shown(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", (*HEAD, "w"), [(*row, 1 + 4 * (row[1] == "two")) for row in write_scans(tmp_path)])
    data = prepared(tmp_path, weight="w")
    seen = torch.bincount(torch.cat([labels for _, labels in data.train_dataloader()]), minlength=3)
    shares = torch.tensor(data.class_counts).double() * torch.tensor([1, 1, 5])
    assert (seen - shares / shares.sum() * sum(data.class_counts)).abs().max() <= 2
    assert (seen - torch.tensor(data.epoch_counts)).abs().max() <= 2
    with pytest.raises(UserError, match=r"data\.balanced cannot be combined with multi-label data or with weights"):
        prepared(tmp_path, weight="w", balanced=True)
    assert prepared(tmp_path, balanced=True).pack is not None  # no weights were asked for


@pytest.mark.slow
def test_a_run_goes_on_exactly_and_says_if_the_table_has_changed(
    train: Callable[..., Run], resume: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(*row, 1 + 4 * (row[1] == "two")) for row in write_scans(tmp_path / "in")]
    write_table(tmp_path / "t.csv", (*HEAD, "w"), rows)
    flags = ["--data", "ImageTable", "--data.table=t.csv", "--data.folder=in", "--data.weight=w", "--data.channels=1"]
    flags += ["--data.image_size=8", "--data.batch_size=4", "--data.root", str(tmp_path), "--data.storage=files"]
    flags += ["--data.num_workers=0", "--model.compile=false", "--model.scheduler=null"]
    whole = train(*flags, "--trainer.max_epochs=2")
    again = train(*flags, "--trainer.max_epochs=2", "--trainer.max_steps=15", "--data.storage=packed")
    resume(again, "--trainer.max_steps=-1")
    for name, value in whole.checkpoint["state_dict"].items():
        assert torch.equal(value, again.checkpoint["state_dict"][name]), name
    assert json.loads((whole.folder / "origin.json").read_text())["data_files"].keys() == {"t.csv"}

    rows[5] = (rows[5][0], NAMES[0], 3)
    write_table(tmp_path / "t.csv", (*HEAD, "w"), rows)
    capsys.readouterr()
    resume(again, "--trainer.max_epochs=3")
    said = capsys.readouterr().out
    assert "data: other images, file names or labels than before" in said
    assert "data_files.t.csv: " in said
