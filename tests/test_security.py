"""What SECURITY.md promises of data from strangers, with real files."""

import contextlib
import csv
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets.utils import extract_archive

from datamodules.image_folder import ImageFolder
from datamodules.names import readable
from scripts.audit import main as audit
from scripts.train import main
from tests.conftest import Run
from tests.datamodules.test_tiny_imagenet import write_source

NAMES = ('<script>alert("a")<\\script>', "two\nlines, \x1b[31mred\x07", "=1+1|[bold]\u202e")
SCANS = (load_digits().images * 15).astype(np.uint8)


def write_photos(folder: Path, per_class: int = 12) -> Path:
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for row in range(per_class):
            Image.fromarray(SCANS[3 * row + label]).save(folder / name / f"{row}{name}.png")
    Image.fromarray(SCANS[0]).save(folder / NAMES[1] / "twin.png")  # for a pair under two labels
    return folder


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)


def assert_harmless(text: str) -> None:
    """For a terminal."""
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_names_break_no_table_and_no_terminal(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_photos(tmp_path / "photos")
    (folder / NAMES[1] / f"broken{NAMES[1]}.png").write_bytes(b"no image")
    data = ("--data=datamodules.image_folder.ImageFolder", f"--data.folder={folder}", "--data.image_size=8")
    run = train(*data, "--data.on_corrupt=skip", "--trainer.max_epochs=1", "--data.root", str(tmp_path))
    main(["predict", "--ckpt_path", str(run.best)])
    assert_harmless(capsys.readouterr().out)
    assert_harmless((run.folder / "skipped_files.txt").read_text().replace("\t", " "))
    assert len((run.folder / "skipped_files.txt").read_text().splitlines()) == 1
    (predictions,) = tmp_path.glob("runs/**/predictions.csv")
    for file, columns in ((run.folder / "classes.csv", 4), (predictions, 4)):
        with file.open(newline="") as opened:
            rows = list(csv.reader(opened))
        assert all(len(row) == columns for row in rows)
    with (run.folder / "classes.csv").open(newline="") as opened:
        assert {row["class"] for row in csv.DictReader(opened)} == set(map(readable, NAMES))

    with pytest.raises(SystemExit) as exit_:
        main(["fit", *data, "--runs", str(tmp_path / "runs"), "--data.root", str(tmp_path)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "broken" in error
    assert_harmless(error)


def test_names_break_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_photos(tmp_path / "photos")
    data = ("--data=datamodules.image_folder.ImageFolder", f"--data.folder={folder}", "--data.image_size=8")
    with pytest.raises(SystemExit):
        audit([*data, "--data.root", str(tmp_path), "--html", str(tmp_path / "page.html")])
    assert_harmless(capsys.readouterr().out)
    page = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert "img" in tags.found
    assert "script" not in tags.found
    assert "\x1b" not in page


def test_a_list_of_files_names_none_elsewhere(tmp_path: Path) -> None:
    from datamodules.tiny_imagenet import TinyImageNet

    write_source(tmp_path)
    annotations = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    wnid = annotations.read_text().split("\t")[1]
    with annotations.open("a") as file:
        file.write(f"../../../../secret.JPEG\t{wnid}\t0\t0\t1\t1\n")
    with pytest.raises(MisconfigurationException, match=r"val/images/\.\./\.\./.* which is elsewhere"):
        TinyImageNet(root=tmp_path).read()


@pytest.mark.parametrize("member", ["../outside.txt", "/outside.txt", "a/../../outside.txt"])
def test_members_of_archives_stay_in_their_folder(tmp_path: Path, member: str) -> None:
    inside = tmp_path / "deep" / "inside"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "text")
    extract_archive(str(tmp_path / "a.zip"), str(inside))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = 4
        archive.addfile(info, io.BytesIO(b"text"))
    with contextlib.suppress(tarfile.TarError):
        extract_archive(str(tmp_path / "a.tar.gz"), str(inside))
    files = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    assert all(file.is_relative_to(inside) for file in files if file.name == "outside.txt")
    assert not Path("/outside.txt").exists()


def test_a_decompression_bomb_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", per_class=4)
    bomb = folder / NAMES[0] / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    data = ImageFolder(root=tmp_path, folder=folder, image_size=8)
    data.prepare_data()
    with pytest.raises(MisconfigurationException, match=r"1 of 14 files give no image: .*bomb\.png \(.*exceeds limit"):
        data.setup("fit")
