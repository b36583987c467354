import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from core.user_error import UserError
from datamodules.batching.data_changes import data_changes
from datamodules.decoding import split_folders
from datamodules.decoding.image_file import is_image
from datamodules.decoding.image_files import ImageFiles
from datamodules.image_folder import ImageFolder
from datamodules.packing import pack_writer
from tests.discovery import CONFIGS

SCANS = (load_digits().images * 15).astype(np.uint8)
LABELS = load_digits().target


def write_source(root: Path, folder: str = "images", per_class: int = 20, **_: Any) -> Path:
    """Cuttings of two real photographs, in class folders."""
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        for row in range(per_class):
            file = root / folder / ("val" if row % 5 == 0 else "train") / name / f"{row}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo[5 * row : 5 * row + 90, :120]).save(file)
    return root / folder


def write_scans(folder: Path, where: Callable[[int, int], str], count: int = 60) -> Path:
    for row in range(count):
        file = folder / where(row, LABELS[row] % 3)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SCANS[row]).save(file)
    return folder


def prepared(root: Path, **arguments: Any) -> ImageFolder:
    data = ImageFolder(root=root, **({"image_size": 8, "channels": 1} | arguments))
    data.prepare_data()
    data.setup("fit")
    return data


def contents(data: ImageFolder, split: str) -> dict[bytes, str]:
    assert data.pack is not None
    images, labels = data.pack[data.splits[split]]
    names = [data.class_names[label] for label in labels.tolist()]
    return {image.numpy().tobytes(): name for image, name in zip(images, names, strict=True)}


def expected(rows: range) -> dict[bytes, str]:
    return {SCANS[row].tobytes(): f"class {LABELS[row] % 3}" for row in rows}


def test_keeps_the_splits_that_are_there_and_draws_the_others(tmp_path: Path) -> None:
    write_scans(tmp_path / "images", lambda row, label: f"{'train' if row < 40 else 'valid'}/class {label}/{row}.png")
    data = prepared(tmp_path, test_size=10)
    assert list(data.class_names) == ["class 0", "class 1", "class 2"]
    assert contents(data, "val") == expected(range(40, 60))
    assert contents(data, "train") | contents(data, "test") == expected(range(40))
    assert 4 < len(data.splits["test"]) < 18


def test_splits_one_folder_of_class_folders(tmp_path: Path) -> None:
    write_scans(tmp_path / "images", lambda row, label: f"class {label}/{row}.png")
    data = prepared(tmp_path, val_size=0.25, test_size=0.2)
    assert sum(map(len, data.splits.values())) == 60
    assert contents(data, "train") | contents(data, "val") | contents(data, "test") == expected(range(60))


def splits_by_name(data: ImageFolder) -> dict[str, str]:
    assert data.pack is not None
    return {data.pack.name(place): split for split, places in data.splits.items() for place in places.tolist()}


@pytest.mark.parametrize("arguments", [{}, {"limit": 0.5}, {"storage": "files"}, {"split_rule": "shuffle"}], ids=str)
def test_a_file_more_or_less_moves_no_other(tmp_path: Path, arguments: dict[str, Any]) -> None:
    folder = write_scans(tmp_path / "images", lambda row, label: f"class {label}/{row}.png")
    before = splits_by_name(prepared(tmp_path, **arguments))
    shutil.copytree(folder, tmp_path / "elsewhere" / "images")  # the files in another order, of other times
    Image.fromarray(SCANS[60]).save(folder / "class 0" / "00.png")
    with_another = [splits_by_name(prepared(root, **arguments)) for root in (tmp_path, tmp_path / "elsewhere")]
    moved = [sum(before.get(name, split) != split for name, split in after.items()) for after in with_another]
    (folder / "class 0" / "00.png").write_bytes(b"no image")
    (folder / "class 1" / "1.png").unlink()
    after = splits_by_name(prepared(tmp_path, on_corrupt="skip", **arguments))
    moved.append(sum(before.get(name, split) != split for name, split in after.items()))
    if "split_rule" in arguments:
        assert moved[0] > 9
        assert moved[1] == 0
    else:
        assert moved == [0, 0, 0]
        assert len(after.keys() ^ before.keys()) <= (1 if "limit" not in arguments else 6)


def test_a_class_of_one_image_is_trained_on(tmp_path: Path) -> None:
    write_scans(tmp_path / "images", lambda row, label: f"class {row if row < 20 else label}/{row}.png")
    for split_seed in range(5):
        data = prepared(tmp_path, split_seed=split_seed)
        assert min(data.class_counts) > 0
        assert all(map(len, data.splits.values()))
    with pytest.raises(UserError, match=r"class \d+ has no training image left by .* or leave it out of"):
        prepared(tmp_path, limit=12)


def test_reads_images_that_are_named_after_their_class(tmp_path: Path) -> None:
    """As the competition Dogs vs. Cats lays them out, with a folder of images to be predicted beside them."""
    write_scans(
        tmp_path / "images", lambda row, label: f"train/class {label}.{row}.png" if row < 50 else f"test/{row}.png"
    )
    data = prepared(tmp_path, val_size=5, test_size=5)
    parts = (contents(data, split) for split in ("train", "val", "test"))
    assert next(parts) | next(parts) | next(parts) == expected(range(50))


def test_a_start_looks_into_one_image_of_each_class_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scans(tmp_path / "images", lambda row, label: f"train/{label}.{row}.png")
    look = Mock(side_effect=is_image)
    monkeypatch.setattr(split_folders, "is_image", look)
    assert ImageFolder(root=tmp_path).class_names == ["0", "1", "2"]
    assert 0 < look.call_count <= 6


def test_images_may_lie_deeper_and_junk_is_no_class(tmp_path: Path) -> None:
    folder = write_scans(tmp_path / "images", lambda row, label: f"train/class {label}/{row % 4}/{row}.png")
    for junk in ("train/__MACOSX", "train/.git", "train/@eaDir", "__MACOSX", ".ipynb_checkpoints"):
        (folder / junk).mkdir()
        (folder / junk / "a.png").write_bytes(b"junk")
    (folder / "train" / "class 0" / "notes.txt").write_text("not an image")
    (folder / "train" / "class 0" / "._1.png").write_bytes(b"junk")
    data = prepared(tmp_path)
    assert list(data.class_names) == ["class 0", "class 1", "class 2"]
    assert data.pack is not None
    assert len(data.pack) == 60


def test_brings_images_to_the_size_asked_for(tmp_path: Path) -> None:
    folder = write_source(tmp_path)
    cropped, squashed, wide = (
        prepared(tmp_path, channels=3, image_size=size, resize=resize)
        for size, resize in ((32, "crop"), (32, "squash"), ((16, 48), "crop"))
    )
    assert len({data.pack_folder for data in (cropped, squashed, wide)}) == 3
    assert wide.image_shape == (3, 16, 48)
    assert squashed.preprocessing["resize"] == "squash"
    assert squashed.pack is not None
    assert squashed.pack.names is not None
    with Image.open(folder / squashed.pack.names[3].decode()) as image:
        whole = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert squashed.pack.images is not None
    assert np.array_equal(squashed.pack.images[3].numpy(), whole)


def test_a_selection_of_classes(tmp_path: Path) -> None:
    write_scans(tmp_path / "images", lambda row, label: f"class {label}/{row}.png")
    data = prepared(tmp_path, classes=["class 2", "class 0"])
    everything = contents(data, "train") | contents(data, "val") | contents(data, "test")
    assert everything == {image: name for image, name in expected(range(60)).items() if name != "class 1"}


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = write_scans(tmp_path / "images", lambda row, label: f"class {label}/{row}.png")
    before = prepared(tmp_path).pack_folder
    write_scans(folder, lambda row, label: f"class {label}/{row}.png", count=1)
    assert prepared(tmp_path).pack_folder != before


def scan_folders(root: Path) -> Path:
    return write_scans(root / "images", lambda row, label: f"{'train' if row < 40 else 'val'}/class {label}/{row}.png")


def test_refuses_a_class_that_training_lacks(tmp_path: Path) -> None:
    folder = scan_folders(tmp_path)
    (folder / "val" / "class 7").mkdir()
    with pytest.raises(UserError, match=r"val has the class class 7, which training lacks"):
        prepared(tmp_path)


def test_refuses_an_empty_class_folder(tmp_path: Path) -> None:
    folder = scan_folders(tmp_path)
    (folder / "train" / "empty").mkdir()
    with pytest.raises(UserError, match="The class empty has no training image"):
        prepared(tmp_path)


def test_refuses_a_split_without_images(tmp_path: Path) -> None:
    folder = scan_folders(tmp_path)
    for image in [*(folder / "val").rglob("*.png")]:
        image.unlink()
    with pytest.raises(UserError, match="the val split has none of the"):
        prepared(tmp_path)


def test_refuses_one_class_only(tmp_path: Path) -> None:
    write_scans(tmp_path / "images", lambda row, label: f"train/all/{row}.png")
    with pytest.raises(UserError, match="only the class all of"):
        prepared(tmp_path)


def test_refuses_a_folder_without_class_folders(tmp_path: Path) -> None:
    write_scans(tmp_path / "images", lambda row, label: f"{row}.png")
    with pytest.raises(UserError, match="has no class folders; expected images in folders such as"):
        prepared(tmp_path)


def test_says_what_was_looked_for_where(tmp_path: Path) -> None:
    for download in (False, True):
        with pytest.raises(UserError, match=rf"from {tmp_path}/photos: No such file.*--data\.folder"):
            prepared(tmp_path, folder=Path("photos"), download=download)


PHOTOS = ("--config", str(CONFIGS / "photos.yaml"), "--model.network.weights=null", "--data.image_size=32")


@pytest.mark.parametrize(
    ("classes", "text", "words"),
    [
        ([], "", "has no class folders; expected images in folders such as"),
        (["cat"], "", "has only the class cat of "),
        (["cat", "dog"], "no image", "None of the 8 files gives an image: cat/0.jpg does not (it is no image)"),
    ],
)
def test_a_folder_that_nothing_can_be_learnt_from_is_one_sentence(
    classes: list[str], text: str, words: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for name in classes:
        (tmp_path / "photos" / name).mkdir()
        for number in range(4):
            (tmp_path / "photos" / name / f"{number}.jpg").write_text(text)
    places = ("--data.folder", tmp_path / "photos", "--data.root", tmp_path / "data", "--runs", tmp_path / "runs")
    assert words in refused("fit", *PHOTOS, *places)
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize("storage", ["packed", "files"])
def test_files_that_give_no_image_are_named_or_skipped(tmp_path: Path, storage: str) -> None:
    folder = scan_folders(tmp_path)
    truncated = sorted((folder / "train" / "class 0").iterdir())[0]
    truncated.write_bytes(truncated.read_bytes()[:60])
    (folder / "val" / "class 1" / "text.jpg").write_text("not an image")
    with pytest.raises(UserError) as error:
        prepared(tmp_path, storage=storage)
    for words in ("2 of 61 files give no image", str(truncated), "text.jpg (it is no image)", "--data.on_corrupt skip"):
        assert words in str(error.value)
    data = prepared(tmp_path, storage=storage, on_corrupt="skip")
    assert data.pack is not None
    assert {name for name, _ in data.pack.skipped} == {
        str(truncated.relative_to(folder)),
        "val/class 1/text.jpg",
    }
    assert len(data.pack) == 59
    assert contents(data, "val") == expected(range(40, 60))


def test_content_of_the_same_size_with_its_time_put_back_is_read_anew(tmp_path: Path) -> None:
    folder = write_scans(tmp_path / "images", lambda row, label: f"class {label}/{row}.bmp")
    before = prepared(tmp_path)
    file, other = folder / "class 0" / "0.bmp", folder / "class 1" / "1.bmp"
    facts = file.stat()
    file.write_bytes(other.read_bytes())
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    after = prepared(tmp_path)
    assert after.pack_folder != before.pack_folder
    assert after.data_fingerprint != before.data_fingerprint


def test_a_file_that_changes_behind_a_running_training_is_refused_where_it_is_read(tmp_path: Path) -> None:
    folder = write_scans(tmp_path / "images", lambda row, label: f"class {label}/{row}.bmp")
    data = prepared(tmp_path, storage="files")
    assert data.pack is not None
    place = [data.pack.name(row) for row in range(60)].index("class 0/3.bmp")
    (folder / "class 0" / "3.bmp").write_bytes((folder / "class 1" / "1.bmp").read_bytes())
    others = torch.tensor([row for row in range(60) if row != place])
    assert len(data.pack[others][0]) == 59
    with pytest.raises(UserError, match=r"class 0/3\.bmp than were read before; .* --data.repack true"):
        data.pack[torch.tensor([0, place])]


def test_folders_of_one_listing_have_packs_of_their_own_and_copies_one_fingerprint(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 100)):
        for row in range(60):
            file = tmp_path / name / f"class {row % 3}" / f"{row}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(SCANS[first + row]).save(file)
            os.utime(file, ns=(0, 0))
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    one, other, copy = (prepared(tmp_path, folder=Path(name)) for name in ("a", "b", "copy"))
    assert len({data.pack_folder for data in (one, other, copy)}) == 3
    assert one.data_fingerprint == copy.data_fingerprint != other.data_fingerprint
    assert data_changes(one.known_images, copy.known_images) == ""
    assert "60 new, 60 gone" in data_changes(one.known_images, other.known_images)


def test_packed_and_decoded_by_workers_are_the_same(tmp_path: Path) -> None:
    write_source(tmp_path)
    packed = prepared(tmp_path, channels=3, image_size=32, storage="packed", num_workers=0)
    files = prepared(tmp_path, channels=3, image_size=32, storage="files", num_workers=2)
    assert packed.pack is not None
    assert files.pack is not None
    assert packed.pack.files is None
    assert files.pack.files is not None
    assert (packed.mean, packed.std) == (files.mean, files.std)
    for mine, theirs in zip(packed.train_dataloader(), files.train_dataloader(), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def test_a_file_that_vanishes_is_told_from_the_worker_in_one_sentence(tmp_path: Path) -> None:
    folder = scan_folders(tmp_path)
    data = prepared(tmp_path, storage="files", num_workers=1)
    for file in (folder / "train" / "class 0").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"^\S.*class 0/\d+\.png: the file is not there, though") as error:
        list(data.train_dataloader())
    assert "\n" not in str(error.value)


def write_layout(folder: Path, layout: str, per_folder: int = 3) -> Path:
    """Different scans in each of several folders."""
    for number, name in enumerate(layout.split()):
        for row in range(per_folder):
            file = folder / name.format(row) if "{}" in name else folder / name / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(SCANS[number * per_folder + row]).save(file, "PNG")
    return folder


@pytest.mark.parametrize(
    ("layout", "splits"),
    [
        ("Training/a Training/b Testing/a Testing/b", {"train": "Training", "test": "Testing"}),
        ("TRAIN/a TRAIN/b TEST/a TEST/b Valid/a Valid/b", {"train": "TRAIN", "val": "Valid", "test": "TEST"}),
        ("train/a train/b dev/a dev/b eval/b", {"train": "train", "val": "dev", "test": "eval"}),
        (
            "training_set/training_set/a training_set/training_set/b test_set/test_set/a test_set/test_set/b",
            {"train": "training_set/training_set", "test": "test_set/test_set"},
        ),
        (
            "seg_train/seg_train/a seg_train/seg_train/b seg_test/seg_test/a seg_test/seg_test/b seg_pred/seg_pred",
            {"train": "seg_train/seg_train", "test": "seg_test/seg_test"},
        ),
        (
            "signs_train/signs_train/a signs_train/signs_train/b signs_test/signs_test",
            {"train": "signs_train/signs_train"},
        ),
        ("x/y/Train/a x/y/Train/b x/y/Validation/a", {"train": "x/y/Train", "val": "x/y/Validation"}),
        ("Training/a Training/b Test/a Test/b test-multiple/", {"train": "Training", "test": "Test"}),
        ("raw-img/a raw-img/b", {"train": "raw-img"}),
        ("training_a training_b", {"train": "."}),
        ("a b bullet_train test_tubes", {"train": "."}),
        ("train/a train/b test/unknown", {"train": "train"}),
        ("train/a.{}.png train/b_{}.png test/{}.png", {"train": "train"}),
        ("train2017/a train2017/b trainee/", None),
        ("a b test", None),
        ("train car bus", None),
        ("train/a train/b extra/a extra/b", None),
        ("train/a train/b test/a test/b extra/a", None),
        ("Train/a Train/b train/a train/b", None),
        ("valid invalid", None),
        ("yes no pred", None),
    ],
)
def test_folders_named_as_in_public_data_sets_are_splits_or_it_is_asked(
    tmp_path: Path, layout: str, splits: dict[str, str] | None
) -> None:
    folder = write_layout(tmp_path / "images", layout)
    if splits is None:
        with pytest.raises(UserError, match=r"not clear .*--data\.splits '\{train: .*\{train: \.\}'"):
            ImageFolder(root=tmp_path)
        return
    data = ImageFolder(root=tmp_path, image_size=8, channels=1)
    source = data.read()
    assert source.keys() == splits.keys()
    for split, within in splits.items():
        images = source[split][0]
        assert isinstance(images, ImageFiles)
        names = {name.decode() for name in images.names}
        assert names == {str(path.relative_to(folder)) for path in (folder / within).rglob("*.png")}
    if splits["train"] != ".":
        assert list(data.class_names) == ["a", "b"]


def test_says_which_folders_are_splits_where_names_do_not(tmp_path: Path) -> None:
    write_layout(tmp_path / "images", "train car bus")
    assert list(ImageFolder(root=tmp_path, splits={"train": "."}).class_names) == ["bus", "car", "train"]
    write_layout(tmp_path / "others", "one/a one/b two/a two/b test")
    arguments: dict[str, Any] = {"root": tmp_path, "folder": Path("others")}
    one = ImageFolder(splits={"train": "one", "val": "two"}, **arguments)
    two = ImageFolder(splits={"train": "two"}, **arguments)
    assert one.read().keys() == {"train", "val"}
    assert two.read().keys() == {"train"}
    assert one.pack_folder != two.pack_folder
    wrong: list[tuple[Any, str]] = [
        ({"val": "two"}, "data.splits is '{val: two}'; give train a folder"),
        ({"train": "one", "val": "one"}, "each split one of its own within --data.folder, none in another"),
        ({"train": ".", "test": "two"}, "each split one of its own within"),
        ({"train": "../others/one"}, "each split one of its own within --data.folder"),
        (
            {"train": "one", "test": "test"},
            r"/test, which data\.splits names, has no class of training; name",
        ),
        ({"train": "three"}, "others/three: No such file"),
    ]
    for splits, message in wrong:
        with pytest.raises(UserError, match=message):
            ImageFolder(splits=splits, **arguments)


@pytest.mark.parametrize("layout", ["a b cells/a cells/b", "train/a train/b train/train/a"])
def test_refuses_a_copy_of_the_classes_within_a_class(tmp_path: Path, layout: str) -> None:
    write_layout(tmp_path / "images", layout)
    with pytest.raises(UserError, match="has a folder a, as there is a class beside it"):
        ImageFolder(root=tmp_path).read()


def test_every_picture_is_read_or_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_layout(tmp_path / "images", "train/$a train/@b train/_c train/.d dev/$a test/{}.png", 12)
    read = ("train/$a/$x", "train/@b/@y.txt", "train/_c/z.bak")
    for name in (*read, "train/loose.png", "train/$a/.hidden.png"):
        Image.fromarray(SCANS[300 + len(name)]).save(folder / name, "PNG")
    (folder / "notes.txt").write_text("text")
    for _ in range(2):  # the second finds the pack
        data = prepared(tmp_path)
        assert list(data.class_names) == ["$a", "@b", "_c"]
        assert data.pack is not None
        assert data.pack.names is not None
        assert {name.encode() for name in read} < set(data.pack.names.tolist())
        assert len(data.pack) == 4 * 12 + 3
        assert capsys.readouterr().out.splitlines()[1:] == [
            f"left out of {folder}: 1 no image (notes.txt), 13 not in a class (test/0.png, ...), "
            "13 hidden (train/$a/.hidden.png, ...)",
        ]


def test_what_could_not_be_read_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan_folders(tmp_path)
    monkeypatch.setattr(
        pack_writer, "available_cores", lambda: 0
    )  # read in this process, where reading can be made to fail
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "7.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    for on_corrupt in ("error", "skip"):
        with pytest.raises(UserError, match=r"7\.png cannot be used: Permission denied; take it out, or make"):
            prepared(tmp_path, on_corrupt=on_corrupt)
    monkeypatch.setattr(Path, "read_bytes", read)
    data = prepared(tmp_path, on_corrupt="skip")
    assert data.pack is not None
    assert len(data.pack) == 60


def test_class_folders_whose_names_are_no_text_or_read_alike_are_told_apart(tmp_path: Path) -> None:
    write_layout(tmp_path / "images", f"{os.fsdecode(b'caf' + bytes([0xE9]))} caf\\xe9 tea", 12)
    data = prepared(tmp_path)
    assert list(data.class_names) == ["caf\\xe9", "caf\\xe9 (2)", "tea"]
    assert data.pack is not None
    for place, label in enumerate(data.pack.labels.tolist()):
        assert os.fsencode(data.pack.name(place)).split(b"/")[0] == (b"caf\\xe9", b"caf\xe9", b"tea")[label]
