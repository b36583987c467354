from pathlib import Path

import pytest
from PIL import Image, ImageShow

from core.user_error import UserError
from scripts.command.picture_file import picture_file, save_picture, show_picture


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


def test_names_a_folder_that_has_gone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose another file with --output"):
        save_picture(Image.new("RGB", (1, 1)), tmp_path / "none" / "x.png")


def test_says_where_the_picture_is_when_nothing_can_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageShow, "show", lambda picture: False)
    with pytest.raises(UserError, match=r"open x\.png elsewhere"):
        show_picture(Image.new("RGB", (1, 1)), Path("x.png"))
