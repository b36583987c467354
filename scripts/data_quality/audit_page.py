"""A page of pictures, in one file: pairs of images side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from scripts.report.page import embedded, write_page

MOST_PAIRS = 100  # pairs of each kind that are shown


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


def write_audit_page(
    path: Path,
    title: str,
    rows: Sequence[tuple[str, str]],
    kinds: Mapping[str, Sequence[ShownPair]],
    picture: Callable[[int], Image.Image],
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]],
) -> None:
    """Write the page; nothing in it is loaded from elsewhere."""
    embed = cache(lambda place: embedded(picture(place)))  # an image may be in several pairs
    write_page(
        path,
        "data_quality/audit.html",
        title=title,
        rows=rows,
        kinds={kind: pairs for kind, pairs in kinds.items() if pairs},
        most_pairs=MOST_PAIRS,
        embedded=embed,
        tables={heading: table for heading, table in tables.items() if table[1]},
    )
