import os
from pathlib import Path

import pytest

from models.durable_file import copy_whole, remove_leftovers, replacing


def test_a_file_is_replaced_when_its_successor_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with replacing(target) as part:
        part.write_text("new")
        assert part.parent == tmp_path, "another folder may be on another disk"
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]  # noqa: PTH208  # names are wanted


def test_it_is_kept_when_the_writer_fails(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]  # noqa: PTH208  # names are wanted


def test_reaches_the_disk_before_it_is_renamed_and_so_does_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    synced, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        done.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "file")
        synced(descriptor)

    def spy(self: Path, target: Path) -> Path:
        done.append("renamed")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", spy)
    with replacing(tmp_path / "file.txt") as part:
        part.touch()
    assert done == ["file", "renamed", "folder"]


def test_a_copy_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    copy_whole(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"


def test_what_killed_writers_have_left_is_removed(tmp_path: Path) -> None:
    for name in (".last.ckpt.123", "last.ckpt", ".lock", ".config.yaml.7"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "last.ckpt"]
