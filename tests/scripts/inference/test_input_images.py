import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from core.user_error import UserError
from scripts.inference.input_images import input_images

LATIN = os.fsdecode(b"caf\xe9.png")


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    for name in ("b/2.png", "b/1.jpg", "b/deep/3.PNG", "a.png", "x y.png", "two\nlines.png", LATIN):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    for name in ("b/notes.txt", "b/.hidden.png", "b/@eaDir/1.png", "odd.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_are_gone_through_and_sorted_and_arguments_keep_their_order() -> None:
    assert input_images(["x y.png", "b", "a.png"]) == ["x y.png", "b/1.jpg", "b/2.png", "b/deep/3.PNG", "a.png"]


def test_a_file_that_is_named_is_taken_whatever_it_is_called() -> None:
    assert input_images(["odd.dat", "b/.hidden.png"]) == ["odd.dat", "b/.hidden.png"]


def test_globs_name_each_image_once() -> None:
    assert input_images(["b/*.png"]) == ["b/2.png"]
    assert input_images(["b/**"]) == ["b/1.jpg", "b/2.png", "b/deep/3.PNG"]
    assert input_images(["?"]) == ["b/1.jpg", "b/2.png", "b/deep/3.PNG"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(photos: Path) -> None:
    (photos / "a[1].png").touch()
    (photos / "a1.png").touch()
    assert input_images(["a[1].png"]) == ["a[1].png"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"b/2.png\nnone.png\n\nx y.png", ["b/2.png", "none.png", "x y.png"]),
        (b"\xef\xbb\xbfb/2.png\r\na.png\r\n", ["b/2.png", "a.png"]),
        (b"caf\xe9.png\n", [LATIN]),
        (b"two\nlines.png\0a.png\0", ["two\nlines.png", "a.png"]),
    ],
)
def test_lists_come_from_files_and_standard_input(
    photos: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, expected: list[str]
) -> None:
    (photos / "list.txt").write_bytes(content)
    assert input_images([], ["list.txt"]) == expected
    assert input_images(["a.png"], ["list.txt"]) == ["a.png", *expected]
    for standard in (True, False):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert (input_images(["-"]) if standard else input_images([], ["-"])) == expected


@pytest.mark.parametrize(
    ("paths", "lists", "expected"),
    [
        ([], [], "No images are given"),
        (["none.png"], [], "There is no none.png"),
        (["none/*.png"], [], "none/.* has no images"),
        (["*.dat"], [], "has no images"),
        (["empty"], [], "empty has no images"),
        ([], ["none.txt"], "The list none.txt cannot be read: No such file"),
        ([], ["empty"], "The list empty cannot be read: Is a directory"),
        ([], ["blank.txt"], "blank.txt names no image"),
    ],
)
def test_what_leads_nowhere_is_refused(photos: Path, paths: list[str], lists: list[str], expected: str) -> None:
    (photos / "blank.txt").write_text("\n \n")
    with pytest.raises(UserError, match=expected):
        input_images(paths, lists)


def test_says_what_is_left_out_of_folders(capsys: pytest.CaptureFixture[str]) -> None:
    input_images(["b"])
    assert capsys.readouterr().err == "left out of b: 1 hidden (.hidden.png), 1 no image (notes.txt)\n"
