"""Draw charts as SVG in the colours of an HTML page, and figures as pictures, without a display."""

import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO, StringIO
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from core.names import escape_name

SIZE_INCHES, DOTS_PER_INCH = (8, 5), 120  # of a picture

# Placeholders for the page's CSS variables --0, the colour of its text, and --1 to --6, which differ in dark mode.
INK, *CURVES = (f"#01010{number}" for number in range(7))

DASHES = ("-", (0, (6, 3)), (0, (2, 3)), (0, (8, 3, 2, 3)), (0, (1, 4)), (0, (12, 4)))  # for readers without colours
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **{"svg.fonttype": "none", "text.parse_math": False, "axes.grid": True, "grid.color": INK, "grid.alpha": 0.2},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 11},
}

# What an SVG file has and an SVG element in a page must not have: header, metadata, names that two charts would share.
FILE_ONLY = r'^.*?(?=<svg)|<metadata>.*?</metadata>| clip-path="[^"]*"| id="[\w.]+_\d+"| xmlns\S*| version=\S*'


def svg(title: str, height: float, draw: Callable[[Figure, Axes], object]) -> Markup:
    """Return what `draw` draws as an SVG element, at most six inches wide and `height` inches high."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": title}):
        figure, file = Figure(figsize=(6, height), layout="constrained"), StringIO()
        draw(figure, figure.subplots())
        figure.savefig(file, format="svg", transparent=True)
    text = re.sub(FILE_ONLY, "", file.getvalue(), flags=re.DOTALL)
    start = f'<svg class="chart" role="img" aria-label="{escape(title)}"'
    text = start + re.sub(r'^<svg width="\S+" height="\S+"', "", text)
    return Markup(re.sub(r"#01010(\d)", r"var(--\1)", text))


def line_chart(curves: Mapping[str, Sequence[tuple[float, ...]]], x_label: str, y_label: str) -> Markup:
    """Draw curves by name, each in its own colour and dashes.

    The points of a curve are `(x, y)` or, to draw a band around it, `(x, y, low, high)`.
    """
    names = list(map(escape_name, curves))

    def draw(figure: Figure, axes: Axes) -> None:
        lines = []
        for number, points in enumerate(curves.values()):
            x, y, *band = zip(*points, strict=True)
            colour, dashes = CURVES[number % 6], DASHES[(number + number // 6) % 6]
            lines += axes.plot(x, y, color=colour, linestyle=dashes, marker="" if len(x) > 1 else "o")
            if band:
                low, high = band
                axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(lines, names, loc="outside lower left", ncols=2 if max(map(len, names)) < 30 else 1)

    return svg(f"{y_label} by {x_label}: {', '.join(names)}", 3.6 + 0.12 * len(curves), draw)


def new_figure() -> Figure:
    """Return an empty figure that pyplot does not keep open."""
    return Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")


def picture_of(figure: Figure) -> Image.Image:
    """Convert a figure to a picture."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer, formats=("PNG",)).convert("RGB")
