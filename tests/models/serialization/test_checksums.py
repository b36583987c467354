import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import models.serialization.checksums
from core.user_error import UserError
from models.serialization.checkpoint import newest_checkpoint, read_checkpoint
from models.serialization.checksums import content_digest, damaged_part
from models.serialization.pretrained import read_weights

STATE = {"weight": torch.zeros(1000)}


def deflate(path: Path) -> None:
    """Zeros by the million, compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"a/data/{number}", bytes(10_000_000))


def overlap(path: Path) -> None:
    """The same bytes as the content of many parts."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data/0", bytes(50_000))
        archive.filelist *= 100


def test_finds_a_part_in_which_a_bit_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(STATE, path)
    assert damaged_part(path) is None
    content = bytearray(path.read_bytes())
    content[content.index(bytes(1000)) + 500] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["weight"].any()
    assert damaged_part(path) == "a/data/0"


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    testzip = zipfile.ZipFile.testzip

    def spy(self: zipfile.ZipFile) -> str | None:
        passes.append(1)
        return testzip(self)

    monkeypatch.setattr(zipfile.ZipFile, "testzip", spy)
    torch.save(STATE, tmp_path / "a.pth")
    (tmp_path / "b.pth").hardlink_to(tmp_path / "a.pth")
    for _ in range(2):
        assert damaged_part(tmp_path / "a.pth") is None
    assert len(passes) == 2, "a change within a tick of the clock would not be seen"
    monkeypatch.setattr(models.serialization.checksums, "TICK", -1)
    assert [damaged_part(tmp_path / name) for name in ("a.pth", "b.pth", "a.pth")] == [None] * 3
    assert len(passes) == 3
    time.sleep(0.05)
    with (tmp_path / "a.pth").open("r+b") as file:
        file.seek((tmp_path / "a.pth").read_bytes().index(bytes(1000)) + 500)
        file.write(b"1")
    assert damaged_part(tmp_path / "b.pth") == "a/data/0"


def test_what_was_written_without_checksums_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(STATE, tmp_path / "quick.pth")
        torch.save({"state_dict": STATE, "optimizer_states": [], "global_step": 1}, tmp_path / "quick.ckpt")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    for name in ("old.pth", "quick.pth"):
        assert torch.equal(read_weights(tmp_path / name)["weight"], STATE["weight"])
    assert newest_checkpoint(tmp_path) == tmp_path / "quick.ckpt"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("write", [deflate, overlap])
def test_an_archive_larger_than_its_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").stat().st_size < 100_000

    def refuse(*args: object) -> None:
        raise AssertionError("a part was read")

    monkeypatch.setattr(zipfile.ZipFile, "open", refuse)
    with pytest.raises(ValueError, match=r"compressed|larger than the whole"):
        damaged_part(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="truncated or damaged"):
        read_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path / "a.ckpt")


def test_a_digest_is_of_the_content_and_not_of_its_place_or_time(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    torch.save({"weight": torch.ones(1000)}, tmp_path / "c.pth")
    digests = [content_digest(tmp_path / f"{name}.pth") for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
