from pathlib import Path

import pytest

from core.user_error import UserError
from scripts.command.output_file import check_output


def test_takes_a_new_file_and_leaves_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "new", overwrite=False)
    assert not list(tmp_path.iterdir())


def test_keeps_what_is_there_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    with pytest.raises(UserError, match="old is there already; replace it with --overwrite"):
        check_output(tmp_path / "old", overwrite=False)
    check_output(tmp_path / "old", overwrite=True)
    assert (tmp_path / "old").read_text() == "kept"


def test_refuses_what_cannot_be_written(tmp_path: Path) -> None:
    for output, reason in ((tmp_path, "it is a folder"), (tmp_path / "missing" / "file", "No such file or directory")):
        with pytest.raises(UserError, match=f"cannot be written: {reason}; choose another file"):
            check_output(output, overwrite=True)
