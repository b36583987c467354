import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from scripts.data_quality.duplicates import Pair
from scripts.data_quality.findings import Audit, Finding, write_page_of


@dataclass
class Listing:
    size: int
    class_names: tuple[str, ...] = ("<cat>", "dog")

    def picture(self, place: int) -> Image.Image:
        return Image.new("RGB", (self.size, self.size), ("red", "blue")[place])


@dataclass
class Found:
    """What the page shows of an audit."""

    listing: Listing
    findings: list[Finding]
    title: str = "2 images of Cats & Dogs"
    images_per_class: dict[str, list[int]] = field(default_factory=lambda: {"train": [1000, 2]})


def page(folder: Path, pairs: int, size: int) -> str:
    images = [
        {"name": name, "split": split, "class": "cat"} for name, split in (("<a>.jpg", "train"), ("b\udce9.jpg", "val"))
    ]
    value: list[Any] = [{"images": images}] * pairs
    findings = [
        Finding("unreadable files", "unreadable", [], []),
        Finding("leakage", "leakage", [], []),
        Finding("near duplicates", "near_duplicates", value, ["alike"] * pairs, [Pair(0, 1, 2, 0.97)] * pairs),
    ]
    write_page_of(cast(Audit, Found(Listing(size), findings)), folder / "page.html")
    return (folder / "page.html").read_text()


def test_holds_everything_itself_and_escapes_names(tmp_path: Path) -> None:
    text = page(tmp_path, pairs=1, size=32)
    HTMLParser().feed(text)
    sources = re.findall(r'(?:src|href)="?([^">]*)', text)
    assert len(sources) == 2
    assert all(source.startswith("data:image/") for source in sources)
    for absent in ("http:", "https:", "url(", "<a>", '<b class="across">cat</b>', "<h2>Leakage", "<h2>Unreadable"):
        assert absent not in text
    for there in (
        *("&lt;a&gt;.jpg", "b\\xe9.jpg", "Cats &amp; Dogs", "prefers-color-scheme", 'name="viewport"'),
        *('<b class="across">train</b>', "hashes differ in 2 of 64 bits, correlation of details 0.970"),
        '<tr><th>&lt;cat&gt;</th><td class="number">1,000</td></tr>',
    ):
        assert there in text


def test_says_how_many_are_not_shown_and_reduces_pictures(tmp_path: Path) -> None:
    text = page(tmp_path, pairs=107, size=2000)
    assert text.count('class="pair"') == 100
    assert "7 more are not shown" in text
    assert len(text) < 1_000_000


@pytest.mark.parametrize(("size", "tiny"), [(28, True), (500, False)])
def test_tiny_pictures_are_embedded_as_they_are(tmp_path: Path, size: int, tiny: bool) -> None:
    assert ("class=tiny" in page(tmp_path, pairs=1, size=size)) == tiny
