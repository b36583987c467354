import re

import pytest

from scripts.chart import HEIGHT, WIDTH, Axes, line_chart


def points(html: str) -> list[tuple[float, float]]:
    lines = re.findall(r'points="([^"]*)"', html)
    return [(float(x), float(y)) for line in lines for x, y in (pair.split(",") for pair in line.split())]


def test_draws_every_point_within_the_picture() -> None:
    html = line_chart({"train": [(0, 2.0), (1, 1.0), (2, 0.5)], "val": [(0, 2.5), (2, 0.9)]}, "epoch", "loss")
    drawn = points(html)
    assert len(drawn) == 5
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in drawn)
    for name in ("train", "val", "epoch", "loss"):
        assert f">{name}</text>" in html
    assert "stroke-dasharray" in html, "curves differ by more than their colour"


def test_one_point_and_a_flat_curve_are_seen() -> None:
    assert "<circle" in line_chart({"train": [(0, 1.0)]}, "epoch", "loss")
    assert len(points(line_chart({"train": [(0, 1.0), (1, 1.0)]}, "epoch", "loss"))) == 2


def test_ends_of_the_scales_are_corners_of_the_plane() -> None:
    axes = Axes((0, 10), (-1, 1), "x", "y")
    (left, bottom), (right, top) = axes.place(0, -1), axes.place(10, 1)
    assert left < right
    assert top < bottom
    assert axes.place(5, 0) == pytest.approx(((left + right) / 2, (top + bottom) / 2))


def test_names_are_escaped() -> None:
    html = line_chart({"<b>": [(0, 1.0), (1, 2.0)]}, "epoch", "loss & more")
    assert "<b>" not in html
    assert "loss &amp; more" in html
