"""Line charts: places of curves and ticks; `parts.html` draws them in the colours of the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.ticker import MaxNLocator

DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "12 4")  # curves can be told apart without colours

Point = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """A plane with two scales, in SVG units."""

    x: Point  # the first and last value of the horizontal scale
    y: Point  # likewise of the vertical scale
    x_label: str
    y_label: str
    whole: bool = False  # True if the horizontal scale has whole numbers alone
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


def line_chart(curves: Mapping[str, Sequence[tuple[float, ...]]], x_label: str, y_label: str) -> LineChart:
    """Lay curves over each other, each with its own colour and dashes.

    A curve's points are x and y or, for a band around it, x, y, low and high.
    """
    xs = [x for curve in curves.values() for x, *_ in curve]
    ys = [y for curve in curves.values() for _, *values in curve for y in values]
    margin = 0.05 * (max(ys) - min(ys)) or 0.5
    x_end = max(xs) if max(xs) > min(xs) else min(xs) + 1
    axes = Axes((min(xs), x_end), (min(ys) - margin, max(ys) + margin), x_label, y_label, whole=True)
    drawn = []
    for number, (name, curve) in enumerate(curves.items()):
        line = [(x, y) for x, y, *_ in curve]
        edges = [(x, low) for x, _, *ends in curve for low in ends[:1]]
        edges += [(x, high) for x, _, *ends in reversed(curve) for high in ends[1:]]
        dot = axes.place(*line[0]) if len(line) == 1 else None
        dashes = DASHES[(number + number // 6) % 6]
        drawn.append(Curve(name, number % 6 + 1, dashes, axes.path(line), axes.path(edges), dot))
    return LineChart(axes, drawn, f"{y_label} by {x_label}: {', '.join(curves)}")
