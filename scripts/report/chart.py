"""Diagrams within a page, as SVG in the colours of its light or dark theme."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from matplotlib.ticker import MaxNLocator

from scripts.report.page import escaped

WIDTH, HEIGHT = 480, 300
"""Of a diagram, in units of which a letter's height is 13."""

LEFT, RIGHT, TOP, BOTTOM = 56, 12, 30, 42
"""Space around the plane of the curves."""

STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
svg.chart { width: 100%; max-width: 40rem; height: auto; font: 13px system-ui, sans-serif; }
svg.chart text { fill: var(--ink); } svg.chart .grid { stroke: var(--line); stroke-width: 1; }
svg.chart .curve { fill: none; stroke-width: 2; stroke-linejoin: round; } svg.chart .band { opacity: .18; }
"""

DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "12 4")
"""Curves differ by these too, so that they are told apart without colours."""

LEGEND_LINE = 16
"""From one line of the curves' names to the next."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """A plane with two scales.

    Args:
        x: The first and last value shown.
        y: Likewise.
        x_label: What the horizontal scale is.
        y_label: The vertical one.
        whole: Whether the horizontal scale is in whole numbers.
    """

    x: Point
    y: Point
    x_label: str
    y_label: str
    whole: bool = False

    def place(self, x: float, y: float) -> Point:
        """The point of the picture for two values."""
        across, up = _share(x, self.x), _share(y, self.y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def drawn(self, content: str, title: str, above: int = 0) -> str:
        """The diagram as HTML.

        Args:
            content: What lies in the plane; SVG.
            title: What to read out in its place; plain text.
            above: Room above it, for what has a negative height.
        """
        (left, bottom), (right, top) = self.place(self.x[0], self.y[0]), self.place(self.x[1], self.y[1])
        parts = []
        for value in _ticks(self.x, whole=self.whole):
            x, _ = self.place(value, 0)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{value:g}</text>')
        for value in _ticks(self.y):
            _, y = self.place(0, value)
            parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        middle = (left + right) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escaped(self.x_label)}</text>')
        parts.append(f'<text x="4" y="14">{escaped(self.y_label)}</text>')
        inside = "".join(parts) + content
        box = f"0 {-above} {WIDTH} {HEIGHT + above}"
        return f'<svg class="chart" viewBox="{box}" role="img" aria-label="{escaped(title)}">{inside}</svg>'


def _share(value: float, ends: Point) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


def _ticks(ends: Point, whole: bool = False) -> list[float]:
    ticks = MaxNLocator(nbins=6, integer=whole).tick_values(*ends)
    slack = 1e-9 * (ends[1] - ends[0])
    return [round(float(tick), 10) for tick in ticks if ends[0] - slack <= tick <= ends[1] + slack]


def line_chart(
    curves: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] = MappingProxyType({}),
) -> str:
    """Draw curves over each other, each with its own colour and dashes.

    Args:
        curves: The points of each curve by its name; there is at least one point.
        x_label: What the horizontal scale is; it is in whole numbers.
        y_label: The vertical one.
        bands: By the name of a curve, what is to be shaded about it: x with the lowest and the highest y.

    Returns:
        HTML.
    """
    points = [point for curve in curves.values() for point in curve]
    points += [(x, y) for band in bands.values() for x, *ends in band for y in ends]
    lows, highs = ([side(values) for values in zip(*points, strict=True)] for side in (min, max))
    margin = 0.05 * (highs[1] - lows[1]) or 0.5
    x_end = highs[0] if highs[0] > lows[0] else lows[0] + 1
    axes = Axes((lows[0], x_end), (lows[1] - margin, highs[1] + margin), x_label, y_label, whole=True)
    parts, at, line = [], WIDTH - RIGHT, 0
    for number, (name, curve) in reversed(list(enumerate(curves.items()))):
        colour, dash = f"var(--{number % 6 + 1})", DASHES[(number + number // 6) % 6]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        if band := bands.get(name):
            edge = [(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)]
            parts.append(f'<polygon class="band" style="fill: {colour}" points="{_path(axes, edge)}"/>')
        parts.append(f'<polyline class="curve" style="stroke: {colour}"{dashed} points="{_path(axes, curve)}"/>')
        if len(curve) == 1:
            x, y = axes.place(*curve[0])
            parts.append(f'<circle style="fill: {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        width = 8 * len(name) + 36
        if at - width < 8 * len(y_label) + 12 and at < WIDTH - RIGHT:
            at, line = WIDTH - RIGHT, line + 1
        at -= width
        y = 10 - line * LEGEND_LINE
        parts.append(
            f'<line class="curve" style="stroke: {colour}"{dashed} x1="{at}" x2="{at + 24}" y1="{y}" y2="{y}"/>'
        )
        parts.append(f'<text x="{at + 29}" y="{y + 4}">{escaped(name)}</text>')
    return axes.drawn("".join(parts), f"{y_label} by {x_label}: {', '.join(curves)}", line * LEGEND_LINE)


def _path(axes: Axes, points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (axes.place(*point) for point in points))
