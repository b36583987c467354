import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import DictLoader
from PIL import Image

from core.durable_file import replace_file
from scripts.report.page import TEMPLATES, embedded, write_page
from scripts.report.table import Bold

PAGE = "report/page.html"


def filled(template: str, macro: str, *args: object) -> str:
    """What a macro of a template gives."""
    return str(getattr(TEMPLATES.get_template(template).module, macro)(*args))


def test_is_a_whole_page_that_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    style, body = "{% block style %}.mine { color: red; }{% endblock %}", "{% block body %}{{ image }}{% endblock %}"
    mine = "{% extends page %}" + style + body
    template = TEMPLATES.overlay(loader=DictLoader({"mine": mine})).get_template("mine")
    page = TEMPLATES.get_template(PAGE)
    text = template.render(page=page, title="Cats & Dogs", image=embedded(Image.new("RGB", (8, 8))))
    HTMLParser().feed(text)
    assert "<h1>Cats &amp; Dogs</h1>" in text
    assert ".mine" in text
    assert "prefers-color-scheme" in text
    assert 'name="viewport"' in text
    assert all(source.startswith("data:image/") for source in re.findall(r'(?:src|href)="?([^">]*)', text))
    assert "http" not in text
    assert "url(" not in text


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_page(file, PAGE, title="first")
    before = file.read_text()
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "\udce9")
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path / "none" / "page.html", PAGE, title="first")


def test_names_are_shown_whatever_a_stranger_has_called_them(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", PAGE, title="<b>\udce9\x1b")
    assert "<h1>&lt;b&gt;\\xe9\\x1b</h1>" in (tmp_path / "page.html").read_text()


def test_large_pictures_are_reduced_and_left_as_they_are_outside() -> None:
    picture = Image.new("RGB", (2000, 1000), "red")
    assert len(embedded(picture)) < 5_000
    assert picture.size == (2000, 1000)
    assert "class=tiny" not in embedded(picture)
    assert "class=tiny" in embedded(Image.new("RGB", (28, 28)))


def test_a_table_escapes_its_cells_and_marks_bold_ones() -> None:
    html = filled("report/parts.html", "table", [["<a>", Bold("<1>"), "2"]], ["what", "share", "how"])
    assert "<th>&lt;a&gt;</th><td><strong>&lt;1&gt;</strong></td><td>2</td>" in html
