import errno
import os
from pathlib import Path

import pytest
import torch

from core.durable_file import check_space, link_whole, remove_leftovers, replacing, whole_folder
from tests.scripts.test_export import disk_of


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


def test_what_torch_could_not_write_is_an_error_of_that_file(tmp_path: Path) -> None:
    target = tmp_path / "file.pt"
    for size in (0, 100, 1000, 40_000):  # the header, the pickle, a tensor
        with disk_of(size), pytest.raises(OSError, match="File too large") as failure:  # noqa: SIM117
            with replacing(target) as part, part.open("wb") as file:
                torch.save({"weight": torch.zeros(20_000)}, file)
        assert failure.value.filename == str(target)
        assert os.listdir(tmp_path) == []  # noqa: PTH208  # names are wanted


def test_an_error_that_is_none_of_the_disk_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), replacing(tmp_path / "file.pt"):
        raise RuntimeError("mine")
    with pytest.raises(OSError, match="mine"), replacing(tmp_path / "file.pt"):
        raise OSError("mine")


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_name_is_of_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").write_bytes(b"old")
    for _ in range(2):  # rename leaves both of two names of one file
        link_whole(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == b"content"
        assert (tmp_path / "a").samefile(tmp_path / "b") == has_links
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]  # noqa: PTH208  # names are wanted


def test_a_link_stands_for_its_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    link_whole(tmp_path / "link", tmp_path / "there/b")
    assert not (tmp_path / "there/b").is_symlink()
    assert (tmp_path / "there/b").read_bytes() == b"content"


def test_a_writer_changes_no_file_that_a_leftover_is_a_link_to(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    os.link(tmp_path / "a", tmp_path / f".b.{os.getpid()}")
    with replacing(tmp_path / "b") as part:
        part.write_bytes(b"new")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"content", b"new")


def test_what_killed_writers_have_left_is_removed(tmp_path: Path) -> None:
    for name in (".last.ckpt.123", "last.ckpt", ".lock", ".config.yaml.7"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "last.ckpt"]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(name)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "folder"
    with whole_folder(folder) as part:
        write(part, "a")
        assert not folder.exists()
    with pytest.raises(FileNotFoundError), whole_folder(folder) as part:
        write(part, "half", "none/b")
    assert [path.name for path in folder.iterdir()] == ["a"]
    with whole_folder(folder) as part:
        write(part, "b")
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_disk_without_room_is_told_before(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(OSError, match=r"1,152,921,504,606,846,976 bytes are needed and [\d,]+ are free") as error:
        check_space(tmp_path, 2**60)
    assert error.value.errno == errno.ENOSPC
