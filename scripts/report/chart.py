"""Line charts: places of curves and ticks; `parts.html` draws them in the colours of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from matplotlib.ticker import MaxNLocator

DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "12 4")  # curves can be told apart without colours

Point = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """A plane with two scales, in SVG units.

    Args:
        x: The first and last value of the horizontal scale.
        y: The first and last value of the vertical scale.
        x_label: The name of the horizontal scale.
        y_label: The name of the vertical scale.
        whole: True if the horizontal scale has whole numbers alone.
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
        across, up = ((value - first) / (last - first) for value, (first, last) in ((x, self.x), (y, self.y)))
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

    def path(self, points: Sequence[Point]) -> str:
        """Points as SVG writes them."""
        return " ".join(f"{x},{y}" for x, y in (self.place(*point) for point in points))


def _ticks(ends: Point, whole: bool = False) -> list[float]:
    ticks = MaxNLocator(nbins=6, integer=whole).tick_values(*ends)
    slack = 1e-9 * (ends[1] - ends[0])
    return [round(float(tick), 10) for tick in ticks if ends[0] - slack <= tick <= ends[1] + slack]


@dataclass(frozen=True)
class Curve:
    """A curve of a chart: its line and its band as SVG writes them, and the place of a single point."""

    name: str
    colour: int
    dashes: str
    points: str
    band: str
    dot: Point | None


@dataclass(frozen=True)
class LineChart:
    """Curves over each other."""

    axes: Axes
    curves: list[Curve]
    title: str


def line_chart(
    curves: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] = MappingProxyType({}),
) -> LineChart:
    """Lay curves over each other, each with its own colour and dashes, and with a band of x, low and high if given."""
    points = [point for curve in curves.values() for point in curve]
    points += [(x, y) for band in bands.values() for x, *ends in band for y in ends]
    lows, highs = ([side(values) for values in zip(*points, strict=True)] for side in (min, max))
    margin = 0.05 * (highs[1] - lows[1]) or 0.5
    x_end = highs[0] if highs[0] > lows[0] else lows[0] + 1
    axes = Axes((lows[0], x_end), (lows[1] - margin, highs[1] + margin), x_label, y_label, whole=True)
    drawn = []
    for number, (name, curve) in enumerate(curves.items()):
        band = bands.get(name, ())
        edge = [(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)]
        dot = axes.place(*curve[0]) if len(curve) == 1 else None
        dashes = DASHES[(number + number // 6) % 6]
        drawn.append(Curve(name, number % 6 + 1, dashes, axes.path(curve), axes.path(edge), dot))
    return LineChart(axes, drawn, f"{y_label} by {x_label}: {', '.join(curves)}")
