"""A page of pictures, in one file: pairs of images side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from scripts.report import page
from scripts.report.page import embedded, escaped, table

MOST_PAIRS = 100
"""Pairs of each kind that are shown."""

STYLE = """
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.pair { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; min-width: 0; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; }
"""


@dataclass(frozen=True)
class Shown:
    """One of a pair: its place, name, split and class."""

    place: int
    name: str
    split: str
    class_name: str


@dataclass(frozen=True)
class ShownPair:
    """A pair and what is to be said of it."""

    left: Shown
    right: Shown
    note: str


def write_page(
    path: Path,
    title: str,
    rows: Sequence[tuple[str, str]],
    kinds: Mapping[str, Sequence[ShownPair]],
    picture: Callable[[int], Image.Image],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
) -> None:
    """Write the page; nothing in it is loaded from elsewhere.

    Args:
        path: Where to.
        title: What was looked at.
        rows: The summary: what, and how many.
        kinds: The pairs found, by kind.
        picture: Gives the image at a place, in mode RGB.
        tables: What is listed below the pictures, by title: the columns' headings, and rows; left out without rows.

    Raises:
        OSError: If the file cannot be written.
    """
    pictures: dict[int, str] = {}

    def figure(image: Shown, other: Shown) -> str:
        if image.place not in pictures:
            pictures[image.place] = embedded(picture(image.place))
        split, class_name = (
            f'<b class="across">{escaped(mine)}</b>' if mine != its else escaped(mine)
            for mine, its in ((image.split, other.split), (image.class_name, other.class_name))
        )
        caption = f"{escaped(image.name)}<br>{split}, {class_name}"
        return f"<figure>{pictures[image.place]}<figcaption>{caption}</figcaption></figure>"

    parts = [table(rows)]
    for kind, pairs in kinds.items():
        if not pairs:
            continue
        parts.append(f"<h2>{escaped(kind.capitalize())}: {len(pairs):,}</h2>")
        if len(pairs) > MOST_PAIRS:
            parts.append(f'<p class="quiet">{len(pairs) - MOST_PAIRS:,} more are not shown.</p>')
        parts.append('<div class="pairs">')
        for pair in pairs[:MOST_PAIRS]:
            two = figure(pair.left, pair.right) + figure(pair.right, pair.left)
            parts.append(
                f'<div class="pair"><div class="two">{two}</div><p class="quiet">{escaped(pair.note)}</p></div>'
            )
        parts.append("</div>")
    for heading, (columns, lines) in tables.items():
        if lines:
            parts += [f"<h2>{escaped(heading)}</h2>", table(lines, columns)]
    page.write_page(path, title, parts, STYLE)
