from pathlib import Path

import pytest
from PIL import Image

from datamodules.packing.left_out import files_besides, summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/0.png", "cat/1", ".cache/2.png", "dog/.3.png", "loose.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name, "PNG")
    for name in ("notes.txt", "cat/Thumbs.db", "dog/._3.png", "@eaDir/0.png", ".DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    return tmp_path


def test_counts_by_reason_and_passes_over_what_systems_leave_behind(folder: Path) -> None:
    others = list(files_besides({"cat/0.png", "cat/1"}, folder))
    assert len(others) == 8
    assert (
        summary(others, folder) == "2 hidden (.cache/2.png, ...), 1 not in a class (loose.png), 1 no image (notes.txt)"
    )
    assert summary(["@eaDir/0.png", ".DS_Store"], folder) == ""


def test_folders_without_end_and_those_of_others_are_left_alone(folder: Path) -> None:
    (folder / "cat" / "up").symlink_to(folder)
    assert len(list(files_besides((), folder, [folder / ".cache"]))) == 9
