import re
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from scripts.data_quality.audit_page import MOST_PAIRS, Shown, ShownPair, write_audit_page


def page(folder: Path, pairs: int, size: int) -> str:
    file = folder / "page.html"
    left, right = Shown(0, "<a>.jpg", "train", "cat"), Shown(1, "b\udce9.jpg", "val", "cat")
    picture = [Image.new("RGB", (size, size), colour) for colour in ("red", "blue")]
    kinds = {"near duplicates": [ShownPair(left, right, "alike")] * pairs, "leakage": []}
    tables = {"Images of each class": (["class", "train"], [["<cat>", "1,000"]]), "Unreadable files": (["file"], [])}
    rows = [("near duplicates", "1")]
    write_audit_page(file, "2 images of Cats & Dogs", rows, kinds, lambda place: picture[place].copy(), tables)
    return file.read_text()


def test_holds_everything_itself_and_escapes_names(tmp_path: Path) -> None:
    text = page(tmp_path, pairs=1, size=32)
    HTMLParser().feed(text)
    sources = re.findall(r'(?:src|href)="?([^">]*)', text)
    assert len(sources) == 2
    assert all(source.startswith("data:image/") for source in sources)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "&lt;a&gt;.jpg" in text
    assert "<a>" not in text
    assert "b\\xe9.jpg" in text
    assert "Cats &amp; Dogs" in text
    assert "prefers-color-scheme" in text
    assert 'name="viewport"' in text
    assert "Leakage" not in text, "kinds without pairs are left out"
    assert '<b class="across">train</b>' in text
    assert '<b class="across">cat</b>' not in text
    assert '<tr><th>&lt;cat&gt;</th><td class="number">1,000</td></tr>' in text
    assert "Unreadable" not in text, "tables without rows are left out"


def test_says_how_many_are_not_shown_and_reduces_pictures(tmp_path: Path) -> None:
    text = page(tmp_path, pairs=MOST_PAIRS + 7, size=2000)
    assert text.count('class="pair"') == MOST_PAIRS
    assert "7 more are not shown" in text
    assert len(text) < MOST_PAIRS * 10_000


def test_tiny_pictures_are_embedded_as_they_are(tmp_path: Path) -> None:
    assert "class=tiny" in page(tmp_path, pairs=1, size=28)
    assert "class=tiny" not in page(tmp_path, pairs=1, size=500)
