import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from models.serialization.durable_file import replace_file
from scripts.report.page import embedded, table, write_page


def test_is_a_whole_page_that_loads_nothing(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_page(file, "Cats & Dogs", [embedded(Image.new("RGB", (8, 8)))], ".mine { color: red; }")
    text = file.read_text()
    HTMLParser().feed(text)
    assert "<h1>Cats &amp; Dogs</h1>" in text
    assert ".mine" in text
    assert "prefers-color-scheme" in text
    assert 'name="viewport"' in text
    assert all(source.startswith("data:image/") for source in re.findall(r'(?:src|href)="?([^">]*)', text))
    assert "http" not in text
    assert "url(" not in text
    assert list(tmp_path.iterdir()) == [file]


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_page(file, "first", [])
    before = file.read_text()
    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "\udce9")
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "none" / "page.html", "first", [])


def test_large_pictures_are_reduced_and_left_as_they_are_outside() -> None:
    picture = Image.new("RGB", (2000, 1000), "red")
    assert len(embedded(picture)) < 5_000
    assert picture.size == (2000, 1000)
    assert "class=tiny" not in embedded(picture)
    assert "class=tiny" in embedded(Image.new("RGB", (28, 28)))
    assert 'alt="a &quot;b&quot;"' in embedded(picture, alt='a "b"')


def test_numbers_are_told_from_words() -> None:
    html = table([["<a>", "12 % to 13.5 %", "2 many"]], ["what", "share", "how"])
    assert "<th>&lt;a&gt;</th>" in html
    assert '<td class="number">12 % to 13.5 %</td>' in html
    assert "<td>2 many</td>" in html
