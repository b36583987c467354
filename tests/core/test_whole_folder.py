import errno
from pathlib import Path

import pytest

from core.whole_folder import check_space, whole_folder


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(name)


def test_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
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
