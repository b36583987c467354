from pathlib import Path

import pytest

from callbacks.whole_file import replace_file


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    replace_file(file, "first")
    replace_file(file, b"second")
    assert file.read_text() == "second"
    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "\udce9")
    assert file.read_text() == "second"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "none" / "results.json", "first")
