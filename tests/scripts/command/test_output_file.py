from pathlib import Path

import pytest
from PIL import Image, ImageShow

from core.user_error import UserError
from scripts.command.output_file import check_output, picture_file, save_picture, show_picture


def test_takes_a_new_file_and_leaves_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "new", overwrite=False)
    assert not list(tmp_path.iterdir())


def test_keeps_what_is_there_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    with pytest.raises(UserError, match="old exists already; replace it with --overwrite"):
        check_output(tmp_path / "old", overwrite=False)
    check_output(tmp_path / "old", overwrite=True)
    assert (tmp_path / "old").read_text() == "kept"


def test_refuses_what_cannot_be_written(tmp_path: Path) -> None:
    for output, reason in ((tmp_path, "it is a folder"), (tmp_path / "missing" / "file", "No such file or directory")):
        with pytest.raises(UserError, match=f"cannot be written: {reason}; choose another file"):
            check_output(output, overwrite=True)


def test_the_folder_of_runs_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert picture_file("runs/x.png") == Path("runs/x.png")
    assert (tmp_path / "runs").is_dir()


def test_a_file_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    assert picture_file(str(file)) == file
    assert not file.exists()
    file.write_bytes(b"mine")
    picture_file(str(file))
    assert file.read_bytes() == b"mine"


def test_names_a_format_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give a name that ends in \.png or \.jpg"):
        picture_file(str(tmp_path / "x.txt"))


@pytest.mark.parametrize("name", ["x.png", "x.JPG"])
def test_a_picture_is_written_in_the_format_of_its_name(tmp_path: Path, name: str) -> None:
    path = picture_file(str(tmp_path / name))
    save_picture(Image.new("RGB", (2, 1)), path)
    with Image.open(path) as written:
        assert written.format == {".png": "PNG", ".jpg": "JPEG"}[path.suffix.lower()]
    assert list(tmp_path.iterdir()) == [path]


def test_says_where_the_picture_is_when_nothing_can_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageShow, "show", lambda picture: False)
    with pytest.raises(UserError, match=r"open x\.png elsewhere"):
        show_picture(Image.new("RGB", (1, 1)), Path("x.png"))
