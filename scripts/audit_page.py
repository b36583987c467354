"""A page of pictures, in one file: pairs of images side by side."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from datamodules.names import readable

MOST_PAIRS = 100
"""Pairs of each kind that are shown."""

SIDE = 192
"""The longer side of a picture in the page, in pixels; smaller images are embedded as they are and drawn larger."""

STYLE = """
:root { color-scheme: light dark; --line: #d0d0d0; --quiet: #666; --across: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --quiet: #a0a0a0; --across: #ff8a80; } }
body { font: 16px/1.4 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.pair { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; min-width: 0; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; }
figure { margin: 0; min-width: 0; }
img { width: 100%; aspect-ratio: 1; object-fit: contain; }
img.tiny { image-rendering: pixelated; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; }
.quiet { color: var(--quiet); font-size: .8rem; margin: .5rem 0 0; }
.across { color: var(--across); }
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
) -> None:
    """Write the page; nothing in it is loaded from elsewhere.

    Args:
        path: Where to.
        title: What was looked at.
        rows: The summary: what, and how many.
        kinds: The pairs found, by kind.
        picture: Gives the image at a place, in mode RGB.

    Raises:
        OSError: If the file cannot be written.
    """
    pictures: dict[int, str] = {}

    def figure(image: Shown, other: Shown) -> str:
        if image.place not in pictures:
            pictures[image.place] = _embedded(picture(image.place))
        split, class_name = (
            f'<b class="across">{_text(mine)}</b>' if mine != its else _text(mine)
            for mine, its in ((image.split, other.split), (image.class_name, other.class_name))
        )
        caption = f"{_text(image.name)}<br>{split}, {class_name}"
        return f"<figure>{pictures[image.place]}<figcaption>{caption}</figcaption></figure>"

    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body><h1>{_text(title)}</h1><table>",
        *(f"<tr><th>{_text(what)}</th><td>{_text(found)}</td></tr>" for what, found in rows),
        "</table>",
    ]
    for kind, pairs in kinds.items():
        if not pairs:
            continue
        parts.append(f"<h2>{_text(kind.capitalize())}: {len(pairs):,}</h2>")
        if len(pairs) > MOST_PAIRS:
            parts.append(f'<p class="quiet">{len(pairs) - MOST_PAIRS:,} more are not shown.</p>')
        parts.append('<div class="pairs">')
        for pair in pairs[:MOST_PAIRS]:
            two = figure(pair.left, pair.right) + figure(pair.right, pair.left)
            parts.append(f'<div class="pair"><div class="two">{two}</div><p class="quiet">{_text(pair.note)}</p></div>')
        parts.append("</div>")
    parts.append("</body></html>\n")
    path.write_text("\n".join(parts), encoding="utf-8")


def _text(name: str) -> str:
    return html.escape(readable(name))


def _embedded(image: Image.Image) -> str:
    tiny = max(image.size) <= SIDE
    if not tiny:
        image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "PNG" if max(image.size) <= SIDE // 2 else "JPEG", quality=85)
    kind = "png" if file.getvalue().startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img{" class=tiny" if tiny else ""} alt="" src="data:image/{kind};base64,{data}">'
