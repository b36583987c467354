import resource
import shutil
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.decoding.image_files import ImageFiles
from datamodules.packing import pack_writer
from datamodules.packing.pack import Pack, Source
from datamodules.packing.pack_writer import TOGETHER, content_digests, identities, write_pack
from tests.discovery import ROOT

NAMES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def source() -> Source:
    """Real scans, in two splits."""
    digits = load_digits()
    images = (digits.images[:, None] * 15).astype(np.uint8)
    return {"train": (images[:1500], digits.target[:1500]), "test": (images[1500:], digits.target[1500:])}


def test_nothing_is_left_of_a_pack_that_fills_the_disk(tmp_path: Path) -> None:
    source = {"train": (np.zeros((4000, 3, 64, 64), np.uint8), np.zeros(4000, np.int64))}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**24, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_pack(tmp_path / "pack", source, NAMES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_told_before_packing(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(np.asarray(rows[0]).nbytes for rows in source.values())
    full = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    monkeypatch.setattr(pack_writer, "_chunks", lambda images: pytest.fail("read an image"))
    with pytest.raises(OSError, match=f"{needed:,} bytes are needed and {needed - 1:,} are free"):
        write_pack(tmp_path / "pack", source, NAMES)
    assert not list(tmp_path.iterdir())


def test_refuses_an_empty_data_set(tmp_path: Path, source: Source) -> None:
    images, labels = source["train"][:2]
    with pytest.raises(UserError, match="has no images"):
        write_pack(tmp_path / "pack", {"train": (np.asarray(images)[:0], labels[:0])}, NAMES)


@pytest.mark.slow
def test_what_a_killed_packing_has_left_is_removed(tmp_path: Path, source: Source) -> None:
    code = (
        "import os, sys; from pathlib import Path; import numpy as np; from datamodules.packing import pack_writer\n"
        "pack_writer.image_sums = lambda images: os.kill(os.getpid(), 9)\n"
        f"pack_writer.write_pack(Path({str(tmp_path / 'pack')!r}), "
        "{'train': (np.zeros((9, 1, 8, 8), np.uint8), np.zeros(9, np.int64))}, ['a', 'b'])"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert not (tmp_path / "pack").exists()
    write_pack(tmp_path / "pack", source, NAMES)
    assert list(tmp_path.iterdir()) == [tmp_path / "pack"]
    assert len(Pack(tmp_path / "pack")) == 1797


def test_an_identity_is_the_path_of_a_file_and_the_pixels_of_what_has_none() -> None:
    images = np.random.default_rng(0).integers(256, size=(5, 3, 4, 4), dtype=np.uint8)
    images[3] = images[1]
    known_by = identities([images])
    assert len(set(known_by.tolist())) == 4
    assert known_by[1] == known_by[3]
    assert np.array_equal(identities([images[::-1]]), known_by[::-1])
    assert np.array_equal(content_digests(images[:, ::-1][:, ::-1]), known_by)
    names = [b"cat/1.png", b"cat/22.png"]
    expected = [int.from_bytes(blake2b(name, digest_size=8).digest(), "little") for name in names]
    for folder in ("here", "there"):
        files = ImageFiles(Path(folder), np.array(names, np.bytes_), (3, 4, 4))
        assert identities([files, files]).tolist() == expected * 2


def test_copies_belong_together_up_to_some() -> None:
    known_by = identities([np.zeros((100, 1, 8, 8), np.uint8), np.ones((3, 1, 8, 8), np.uint8)])
    assert np.unique(known_by, return_counts=True)[1].max() == TOGETHER
    assert len(set(known_by.tolist())) == -(-100 // TOGETHER) + 1
    assert known_by[0] == content_digests(np.zeros((1, 1, 8, 8), np.uint8))[0]
