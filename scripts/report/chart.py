"""Where the lines, ticks and legend of a chart lie; `parts.html` draws them in the colours of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from matplotlib.ticker import MaxNLocator

# Curves differ by these too, so that they are told apart without colours.
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "12 4")

LEGEND_LINE = 16  # from one line of the curves' names to the next

Point = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """A plane with two scales. Lengths are in SVG units; letters are 13 high.

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
    width: ClassVar[int] = 480
    height: ClassVar[int] = 300
    left: ClassVar[int] = 56
    right: ClassVar[int] = 468
    top: ClassVar[int] = 30
    bottom: ClassVar[int] = 258

    def place(self, x: float, y: float) -> Point:
        """The point of the picture for two values."""
        across, up = _share(x, self.x), _share(y, self.y)
        x = self.left + across * (self.right - self.left)
        return round(x, 1), round(self.bottom - up * (self.bottom - self.top), 1)

    @property
    def x_ticks(self) -> list[tuple[str, float]]:
        """Labels of the horizontal scale and their x."""
        return [(f"{value:g}", self.place(value, 0)[0]) for value in _ticks(self.x, whole=self.whole)]

    @property
    def y_ticks(self) -> list[tuple[str, float]]:
        """Labels of the vertical scale and their y."""
        return [(f"{value:g}", self.place(0, value)[1]) for value in _ticks(self.y)]


@dataclass(frozen=True)
class Curve:
    """A line of a chart: its points and band as SVG writes them, and the place of its name in the legend."""

    name: str
    colour: int
    dashes: str
    points: str
    band: str
    dot: Point | None
    legend: Point


@dataclass(frozen=True)
class LineChart:
    """Curves over each other, with room above the plane for the further lines of the legend."""

    axes: Axes
    curves: list[Curve]
    title: str
    above: int


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
) -> LineChart:
    """Lay curves over each other, each with its own colour and dashes."""
    points = [point for curve in curves.values() for point in curve]
    points += [(x, y) for band in bands.values() for x, *ends in band for y in ends]
    lows, highs = ([side(values) for values in zip(*points, strict=True)] for side in (min, max))
    margin = 0.05 * (highs[1] - lows[1]) or 0.5
    x_end = highs[0] if highs[0] > lows[0] else lows[0] + 1
    axes = Axes((lows[0], x_end), (lows[1] - margin, highs[1] + margin), x_label, y_label, whole=True)
    laid, at, line = [], axes.right, 0
    for number, (name, curve) in reversed(list(enumerate(curves.items()))):
        width = 8 * len(name) + 36
        if at - width < 8 * len(y_label) + 12 and at < axes.right:
            at, line = axes.right, line + 1
        at -= width
        band = bands.get(name, ())
        edge = [(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)]
        dot = axes.place(*curve[0]) if len(curve) == 1 else None
        dashes, place = DASHES[(number + number // 6) % 6], (at, 10 - line * LEGEND_LINE)
        laid.append(Curve(name, number % 6 + 1, dashes, _path(axes, curve), _path(axes, edge), dot, place))
    return LineChart(axes, laid, f"{y_label} by {x_label}: {', '.join(curves)}", line * LEGEND_LINE)


def _path(axes: Axes, points: Sequence[Point]) -> str:
    return " ".join(f"{x},{y}" for x, y in (axes.place(*point) for point in points))
