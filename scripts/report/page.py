"""A page in one file, which loads nothing from elsewhere: light and dark, on a wide screen and on a phone."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from datamodules.decoding.names import readable
from models.serialization.durable_file import replace_file

SIDE = 192
"""The longer side of a picture in the page, in pixels; smaller images are embedded as they are and drawn larger."""

NUMBER = re.compile(r"[-+]?[\d.,]+( ?%)?( (to|±) [-+]?[\d.,]+( ?%)?)?")
"""A number, a share or a range of them."""

STYLE = """
:root { color-scheme: light dark; --line: #d0d0d0; --quiet: #666; --across: #b3261e; --paper: #fff; --ink: #1a1a1a;
  --1: #0072b2; --2: #d55e00; --3: #007a5a; --4: #b04a86; --5: #8a6d00; --6: #3a3a3a; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --quiet: #a0a0a0; --across: #ff8a80; --paper: #161616;
  --ink: #e8e8e8; --1: #56b4e9; --2: #ff9a4d; --3: #2fc79a; --4: #e59cc5; --5: #f0e442; --6: #d0d0d0; } }
body { font: 16px/1.4 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem;
  background: var(--paper); color: var(--ink); }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; white-space: nowrap; }
.wide { overflow-x: auto; }
figure { margin: 0; min-width: 0; }
img { width: 100%; aspect-ratio: 1; object-fit: contain; }
img.tiny { image-rendering: pixelated; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; }
.quiet { color: var(--quiet); font-size: .8rem; margin: .5rem 0 0; }
.across { color: var(--across); }
"""
"""What all pages look like; `--1` to `--6` are colours that the colour-blind tell apart (Okabe and Ito, 2008)."""


def write_page(path: Path, title: str, body: Iterable[str], style: str = "") -> None:
    """Write a page, whole or not at all.

    Args:
        path: Where to.
        title: Its title and first heading; plain text.
        body: What follows the heading; HTML.
        style: CSS besides `STYLE`.

    Raises:
        OSError: If the file cannot be written; one that was there before is kept.
    """
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title><style>{STYLE}{style}</style></head><body><h1>{escaped(title)}</h1>",
        *body,
        "</body></html>\n",
    ]
    replace_file(path, "\n".join(parts))


def escaped(name: str) -> str:
    """A name, whatever a stranger has called it, as text in HTML.

    Example:
        >>> escaped("<a> & b")
        '&lt;a&gt; &amp; b'
    """
    return html.escape(readable(name))


def table(rows: Iterable[Sequence[str]], heading: Sequence[str] = ()) -> str:
    """Lay out rows of which the first cell is a name; under a heading, cells that are numbers are set to the right.

    Args:
        rows: Plain text.
        heading: Names of the columns, plain text; by default none.

    Returns:
        A table in a box that scrolls where the screen is narrow; HTML.

    Example:
        >>> table([["loss", "0.5"]])
        '<div class="wide"><table><tr><th>loss</th><td>0.5</td></tr></table></div>'
    """

    def cell(content: str) -> str:
        number = ' class="number"' if heading and NUMBER.fullmatch(content) else ""
        return f"<td{number}>{escaped(content)}</td>"

    lines = [f"<tr>{''.join(f'<th>{escaped(name)}</th>' for name in heading)}</tr>"] if heading else []
    lines += [f"<tr><th>{escaped(name)}</th>{''.join(map(cell, cells))}</tr>" for name, *cells in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def embedded(image: Image.Image, side: int = SIDE, alt: str = "") -> str:
    """A picture within the page.

    Args:
        image: RGB.
        side: Pixels that its longer side has at most.
        alt: What to read out in its place; plain text.

    Returns:
        HTML.
    """
    tiny = max(image.size) <= side
    if not tiny:
        image = image.copy()
        image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "PNG" if max(image.size) <= side // 2 else "JPEG", quality=85)
    kind = "png" if file.getvalue().startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(file.getvalue()).decode()
    tag = "<img class=tiny" if tiny else "<img"
    return f'{tag} alt="{escaped(alt)}" src="data:image/{kind};base64,{data}">'


def section(title: str, *parts: str, note: str = "") -> str:
    """A part of the page under its heading.

    Args:
        title: Plain text.
        parts: HTML.
        note: What to say first; plain text.
    """
    said = f'<p class="quiet">{escaped(note)}</p>' if note else ""
    return f"<section><h2>{escaped(title)}</h2>{said}{''.join(parts)}</section>"
