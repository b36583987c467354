import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from rich import get_console
from sklearn.datasets import load_digits

from datamodules.packing.features import write_features
from datamodules.packing.pack import Pack
from datamodules.packing.pack_writer import write_pack
from scripts.packs import main
from tests.conftest import Done

CONTENT = {"digits-0123456789ab": 0, "digits-ba9876543210": 0, "digits-aaaaaaaaaaaa": 1}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packs of the same images, one of others, features of either, leftovers, somebody's own, and two runs."""
    digits, packs = load_digits(), tmp_path / "data" / "packs"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(get_console(), "width", 150)
    for age, (name, first) in enumerate(CONTENT.items()):
        images = (digits.images[first : first + 100, None] * 15).astype(np.uint8)
        write_pack(packs / name, {"train": (images, digits.target[first : first + 100])}, list("0123456789"))
        os.utime(packs / name, (age, age))
    prints = [Pack(packs / name).fingerprint for name in CONTENT]
    (packs / "digits-0123456789ab" / "columns.parquet").touch()
    for age, name in enumerate(CONTENT):
        os.utime(packs / name, (age * 1e8, age * 1e8))
    for name, data in (("features-0123456789ab", prints[0]), ("features-ba9876543210", prints[2])):
        write_features(packs / name, "key", data, {"train": (2, [torch.ones(2, 1, 3)])})
    shutil.copytree(packs / "digits-0123456789ab", packs / ".digits-bbbbbbbbbbbb.part")
    (packs / "digits-cccccccccccc").mkdir()
    (packs / "digits-dddddddddddd").mkdir()
    (packs / "digits-dddddddddddd" / "thesis.tex").touch()
    (packs / "photographs").mkdir()
    for name, content in (("one", "feature_cache: {class_path: a.B}"), ("two", "feature_cache: null")):
        run = tmp_path / "runs" / "digits" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(content)
        (run / "origin.json").write_text(f'{{"data_fingerprint": "{prints[0]}"}}')
        (run / "constraints.txt").touch()
    return packs


def test_lists_size_last_use_and_who_needs_it(place: Path, script: Callable[..., Callable[..., Done]]) -> None:
    status, said, error = script(main)()
    assert (status, error) == (0, "")
    rows = {line.split()[0]: " ".join(line.split()) for line in said.replace("│", " ").splitlines() if "MB" in line}
    assert "100 images of 1x8x8 0.0 MB" in rows["digits-ba9876543210"]
    assert re.search(r" 1973-03-0[234] \d\d:46 2$", rows["digits-ba9876543210"])
    assert rows["digits-0123456789ab"].endswith(" 0"), "the same images were used later from another pack"
    assert rows["digits-aaaaaaaaaaaa"].endswith(" 0")
    assert rows["features-0123456789ab"].endswith(" 2")
    assert rows["features-ba9876543210"].endswith(" 0")
    assert "unusable" in rows[".digits-bbbbbbbbbbbb.part"]
    assert "unusable" in rows["digits-cccccccccccc"]
    assert "needed by no run in runs" in said
    assert "thesis" not in said
    assert "digits-dddddddddddd" not in rows
    assert "photographs" not in rows


def test_removes_what_no_run_needs_and_nothing_else(place: Path, script: Callable[..., Callable[..., Done]]) -> None:
    status, said, error = script(main)("--remove-unneeded")
    assert (status, error, said.count("removed")) == (0, "", 5)
    left = {path.name for path in place.iterdir() if path.is_dir()}
    assert left == {"digits-ba9876543210", "features-0123456789ab", "digits-dddddddddddd", "photographs"}
    Pack(place / "digits-ba9876543210")
    assert script(main)("--remove-unneeded") == (0, "", "")


def test_removes_what_is_named(place: Path, script: Callable[..., Callable[..., Done]]) -> None:
    status, said, _ = script(main)(place, "--remove", "digits-ba9876543210", ".digits-bbbbbbbbbbbb.part")
    assert (status, said.count("removed")) == (0, 2)
    assert not (place / "digits-ba9876543210").exists()
    assert not (place / ".digits-bbbbbbbbbbbb.part").exists()
    assert (place / "digits-0123456789ab").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--remove", "digits-012345678"], "There is no pack or feature cache digits-012345678; give one of "),
        (["--remove", "../../runs"], "There is no pack or feature cache ../../runs; give one of "),
        (["--remove", "photographs"], "There is no pack or feature cache photographs; give one of "),
        (["nowhere"], "There is no folder nowhere; give the one that packs lie in, such as data/packs."),
        (["--remove-unneeded", "--runs", "nowhere"], "There is no folder nowhere, so that nothing says what runs need"),
    ],
)
def test_a_mistake_removes_nothing(
    place: Path, script: Callable[..., Callable[..., Done]], args: list[str], words: str
) -> None:
    before = sorted(place.rglob("*"))
    status, said, error = script(main)(*args)
    assert (status, said) == (2, "")
    assert words in error
    assert error.count("\n") == 1
    assert sorted(place.rglob("*")) == before


def test_what_is_being_written_is_left(place: Path, script: Callable[..., Callable[..., Done]]) -> None:
    with FileLock(place / "digits-bbbbbbbbbbbb.lock"):
        status, _, error = script(main)("--remove", ".digits-bbbbbbbbbbbb.part")
    assert status == 2
    assert "is being written by a process; wait for its end, or stop it." in error
    assert (place / ".digits-bbbbbbbbbbbb.part").exists()


def test_opening_a_pack_is_its_last_use(place: Path) -> None:
    os.utime(place / "digits-aaaaaaaaaaaa", (0, 0))
    Pack(place / "digits-aaaaaaaaaaaa")
    assert (place / "digits-aaaaaaaaaaaa").stat().st_mtime > 1e9
