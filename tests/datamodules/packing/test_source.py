import json
import linecache
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from tests.datamodules.test_base import prepared


def test_reads_the_source_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(tmp_path)
    monkeypatch.setattr(Digits, "read", lambda self: pytest.fail("read again"))
    again = prepared(tmp_path)
    assert again.pack_folder == first.pack_folder
    assert len(again.splits["train"]) == 1294


def test_another_source_makes_another_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(tmp_path).pack_folder
    monkeypatch.setattr(Digits, "fingerprint", lambda self: "another")
    assert prepared(tmp_path).pack_folder != first


def test_a_download_may_decide_the_folder_of_the_source(tmp_path: Path) -> None:
    class Released(Digits):
        @property
        def source_folder(self) -> Path:
            for folder in self.root.glob("release-*"):
                return folder
            raise FileNotFoundError(2, "No such file or directory", str(self.root / "release-*"))

        def fetch(self) -> None:
            (self.root / "release-3").mkdir()

        def fingerprint(self) -> str:
            return self.source_folder.name

    data = Released(root=tmp_path, download=True)
    data.prepare_data()
    assert Released(root=tmp_path).pack_folder == data.pack_folder
    with pytest.raises(UserError, match=r"Released cannot be read from .*release"):
        Released(root=tmp_path / "elsewhere").prepare_data()


SCANS = """
import numpy as np
from sklearn.datasets import load_digits
from datamodules.base import ImageDataModule

LEVELS = 15

class Scans(ImageDataModule):
    class_names = tuple("0123456789")
    image_shape = (1, 8, 8)

    def __init__(self, fold: int = 0, **arguments):
        super().__init__(**arguments)
        self.fold = fold

    def fingerprint(self):
        return ""

    def read(self):
        digits = load_digits()
        images = (digits.images[:, None] * LEVELS).astype(np.uint8)
        kept = np.arange(len(images)) % 5 != self.fold
        return {"train": (images[kept], digits.target[kept])}
"""


def scans(folder: Path, text: str, **arguments: Any) -> ImageDataModule:
    """The data set of one's own in a file of this text, read."""
    file = folder / "scans.py"
    file.write_text(text)
    linecache.checkcache(str(file))
    spec = spec_from_file_location("scans", file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["scans"] = module = module_from_spec(spec)
    exec(compile(text, str(file), "exec"), vars(module))  # not by the loader, which knows times to the second
    data: ImageDataModule = module.Scans(root=folder, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def test_what_a_data_set_reads_by_is_part_of_its_pack(tmp_path: Path) -> None:
    first = scans(tmp_path, SCANS)
    assert scans(tmp_path, SCANS).pack_folder == first.pack_folder
    assert scans(tmp_path, SCANS, fold=0, batch_size=8).pack_folder == first.pack_folder
    fingerprints = {first.data_fingerprint}
    for text, arguments in (
        (SCANS.replace(".astype", ".__mul__(0).astype"), {}),
        (SCANS.replace("LEVELS = 15", "LEVELS = 10"), {}),
        (SCANS, {"fold": 1}),
        (SCANS, {"fold": 2}),
    ):
        other = scans(tmp_path, text, **arguments)
        assert other.pack_folder != first.pack_folder
        fingerprints.add(other.data_fingerprint)
    assert len(fingerprints) == 5


def change_version(folder: Path) -> None:
    facts = json.loads((folder / "facts.json").read_text())
    (folder / "facts.json").write_text(json.dumps(facts | {"version": 1}))


def zero_images(folder: Path) -> None:
    images = np.load(folder / "images.npy", mmap_mode="r+")
    images[-1] = 0


def zero_labels(folder: Path) -> None:
    """As a disk that lost power may: the length is right."""
    labels = np.load(folder / "labels.npy", mmap_mode="r+")
    labels[:] = 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "images.npy").write_bytes(b"\x93NUMPY"), ""),
        (lambda folder: (folder / "facts.json").unlink(), "No such file"),
        (change_version, "it was written by version 1"),
        (zero_labels, "its content is not what was written"),
        (zero_images, "its images are not those that were written"),
    ],
)
def test_a_damaged_pack_is_made_again_and_that_is_said(
    tmp_path: Path, damage: Callable[[Path], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepared(tmp_path).pack_folder
    damage(folder)
    capsys.readouterr()
    again = prepared(tmp_path).pack
    assert again is not None
    assert np.array_equal(again[torch.arange(1797)][0].numpy(), np.asarray(Digits(root=tmp_path).read()["train"][0]))
    said = capsys.readouterr().out
    assert f"{folder} is no whole pack: " in said
    assert words in said
    assert "reading the data set again" in said


def test_a_selection_of_classes_is_labelled_in_its_order(data_root: Path) -> None:
    data = prepared(data_root, classes=["7", "3"])
    assert data.pack is not None
    assert data.num_classes == 2
    real = Digits(root=data_root).read()["train"][1]
    for indices in data.splits.values():
        assert np.array_equal(data.pack[indices][1].numpy(), np.where(real[indices] == 7, 0, 1))
        assert set(real[indices].tolist()) == {3, 7}
    assert sum(map(len, data.splits.values())) == np.isin(real, (3, 7)).sum()


def test_packs_may_lie_elsewhere(tmp_path: Path) -> None:
    data = prepared(tmp_path / "read-only", packs=tmp_path / "scratch")
    assert data.pack_folder.parent == tmp_path / "scratch"
    assert not (tmp_path / "read-only").exists()


def test_says_where_a_missing_source_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "read", lambda self: np.load(self.root / "digits.npz"))
    with pytest.raises(UserError, match=r"Digits cannot be read from .*digits\.npz: No such file"):
        Digits(root=tmp_path).prepare_data()


def test_declares_what_a_data_set_must_say() -> None:
    assert ImageDataModule.__abstractmethods__ == {"fingerprint", "read"}
