from pathlib import Path

import pytest

from scripts.whole_file import whole_file


def test_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")
    with whole_file(target) as part:
        part.write_text("after")
        assert target.read_text() == "before"
        assert part.parent == target.parent
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "after")]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(OSError, match="full"), whole_file(target) as part:  # noqa: PT012 - both are the writer
        part.write_text("half")
        raise OSError(28, "full")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "before")]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.txt"):
        pass
    assert not list(tmp_path.iterdir())
