import re
from typing import Any

import pytest

from scripts.report.chart import Axes, line_chart
from tests.scripts.report.test_page import filled

HEIGHT, WIDTH = Axes.height, Axes.width


def drawn_chart(*args: Any) -> str:
    return filled("report/parts.html", "line_chart", line_chart(*args))


def points(html: str) -> list[tuple[float, float]]:
    lines = re.findall(r'points="([^"]*)"', html)
    return [(float(x), float(y)) for line in lines for x, y in (pair.split(",") for pair in line.split())]


def test_draws_every_point_within_the_picture() -> None:
    html = drawn_chart({"train": [(0, 2.0), (1, 1.0), (2, 0.5)], "val": [(0, 2.5), (2, 0.9)]}, "epoch", "loss")
    drawn = points(html)
    assert len(drawn) == 5
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in drawn)
    assert all(f">{scale}</text>" in html for scale in ("epoch", "loss"))
    assert all(f"</svg> {name}</span>" in html for name in ("train", "val"))
    assert "stroke-dasharray" in html, "curves differ by more than their colour"


def test_one_point_and_a_flat_curve_are_seen() -> None:
    assert "<circle" in drawn_chart({"train": [(0, 1.0)]}, "epoch", "loss")
    assert len(points(drawn_chart({"train": [(0, 1.0), (1, 1.0)]}, "epoch", "loss"))) == 2


def test_ends_of_the_scales_are_corners_of_the_plane() -> None:
    axes = Axes((0, 10), (-1, 1), "x", "y")
    (left, bottom), (right, top) = axes.place(0, -1), axes.place(10, 1)
    assert left < right
    assert top < bottom
    assert axes.place(5, 0) == pytest.approx(((left + right) / 2, (top + bottom) / 2))


def test_names_are_escaped() -> None:
    html = drawn_chart({"<b>": [(0, 1.0), (1, 2.0)]}, "epoch", "loss & more")
    assert "<b>" not in html
    assert "loss &amp; more" in html


def test_many_curves_differ_and_each_is_in_the_legend() -> None:
    names = [f"group {number}" for number in range(12)]
    html = drawn_chart({name: [(0, 1.0), (1, 2.0)] for name in names}, "epoch", "accuracy")
    drawn = re.findall(r'<polyline\s+class="curve" style="([^"]*)"([^>]*?)\s+points', html)
    keys = re.findall(r'<line\s+class="curve" style="([^"]*)"([^>]*?)\s+x2="24".*</svg> (.*)</span>', html)
    assert [key[:2] for key in keys] == drawn
    assert len(set(drawn)) == 12
    assert [name for _, _, name in keys] == names


def test_bands_are_within_the_picture() -> None:
    html = drawn_chart({"a": [(0, 1.0, 0.5, 1.5), (1, 2.0, -3.0, 5.0)]}, "epoch", "loss")
    (band,) = re.findall(r'<polygon class="band"[^>]* points="([^"]*)"', html)
    corners = [tuple(map(float, pair.split(","))) for pair in band.split()]
    assert len(corners) == 4
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in corners)
    assert "polygon" not in drawn_chart({"a": [(0, 1.0)]}, "epoch", "loss")
