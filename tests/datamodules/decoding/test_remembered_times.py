import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core.user_error import UserError
from datamodules.decoding import folder_fingerprint, remembered_times
from datamodules.decoding.folder_fingerprint import fingerprint_files, look_through
from datamodules.decoding.remembered_times import RememberedTimes
from tests.datamodules.test_image_folder import write_scans


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(remembered_times, "MANY_FILES", 60)
    folder = write_scans(tmp_path / "images", lambda row, label: f"class {label}/deeper/{row}.bmp")
    for inner in (folder, *filter(Path.is_dir, folder.rglob("*"))):
        os.utime(inner, ns=(0, 0))  # a clock may show a folder's later change the same time
    return folder


def start(tmp_path: Path, folder: Path) -> tuple[str, RememberedTimes]:
    times = RememberedTimes(tmp_path / "packs")
    return times.recalling(lambda: fingerprint_files(folder)), times


def test_a_later_start_looks_at_no_file(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, times = start(tmp_path, folder)
    times.look_at_all()
    times.check_unchanged()
    assert first == fingerprint_files(folder)
    with monkeypatch.context() as context:
        context.setattr(folder_fingerprint, "_stat", lambda *_: pytest.fail("looked at a file"))
        again, times = start(tmp_path, folder)
    assert again == first
    times.look_at_all()
    times.check_unchanged()


def replace(file: Path) -> None:
    part = file.with_name("part")
    part.write_bytes(file.read_bytes()[::-1])
    os.utime(part, ns=(0, file.stat().st_mtime_ns))
    part.replace(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.unlink(),
        lambda file: file.rename(file.with_name("other.bmp")),
        lambda file: file.with_name("new.bmp").touch(),
        lambda file: (file.parent / "folder" / "folder").mkdir(parents=True),
        replace,
    ],
    ids=["removed", "renamed", "added", "folder added", "replaced"],
)
def test_what_changes_a_folder_is_noticed_at_the_start(
    tmp_path: Path, folder: Path, change: Callable[[Path], None]
) -> None:
    first, _ = start(tmp_path, folder)
    change(folder / "class 0" / "deeper" / "0.bmp")
    again, times = start(tmp_path, folder)
    assert again == fingerprint_files(folder) != first
    times.look_at_all()
    times.check_unchanged()


def write_in_place(file: Path) -> None:
    facts = file.stat()
    with file.open("r+b") as opened:
        opened.write(file.read_bytes()[::-1])
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_a_file_written_in_place_is_refused_and_the_next_start_finds_it(tmp_path: Path, folder: Path) -> None:
    first, _ = start(tmp_path, folder)
    file = folder / "class 1" / "deeper" / "1.bmp"
    write_in_place(file)
    recalled, times = start(tmp_path, folder)
    assert recalled == first
    times.look_at_all()
    for _ in range(2):
        with pytest.raises(UserError, match=r"^A file of the data set has been written to .* start again"):
            times.check_unchanged()
    found, times = start(tmp_path, folder)
    assert found == fingerprint_files(folder) != first
    times.look_at_all()
    times.check_unchanged()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"folders": 3}', b'{"folders": {"nowhere": [0, 0]}}', b"\xff"])
def test_what_was_remembered_and_is_damaged_is_left_out(tmp_path: Path, folder: Path, content: bytes) -> None:
    first, _ = start(tmp_path, folder)
    (file,) = (tmp_path / "packs").glob(".*")
    file.write_bytes(content)
    assert start(tmp_path, folder)[0] == first


def test_few_files_are_always_looked_at_and_nothing_is_kept_of_them(tmp_path: Path, folder: Path) -> None:
    (folder / "class 0" / "deeper" / "0.bmp").unlink()
    start(tmp_path, folder)
    assert not (tmp_path / "packs").exists()
    write_in_place(folder / "class 1" / "deeper" / "1.bmp")
    assert start(tmp_path, folder)[0] == look_through(folder)[0]
