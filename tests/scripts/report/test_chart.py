import re
from html.parser import HTMLParser

import numpy as np

from scripts.report.chart import DOTS_PER_INCH, SIZE_INCHES, line_chart, new_figure, picture_of

TWO = [(0, 1.0), (1, 2.0)]


def test_has_both_scales_and_every_curve_with_its_name() -> None:
    html = line_chart({"train": [(0, 2.0), (1, 1.0), (2, 0.5)], "val": [(0, 2.5), (2, 0.9)]}, "epoch", "loss")
    HTMLParser().feed(html)
    assert html.startswith('<svg class="chart" role="img" aria-label="loss by epoch: train, val" viewBox="0 0 432 ')
    assert all(f">{text}</text>" in html for text in ("epoch", "loss", "train", "val"))
    assert "stroke-dasharray" in html, "curves differ by more than their colour"


def test_takes_its_colours_from_the_page_and_loads_nothing() -> None:
    html = line_chart({"train": TWO}, "epoch", "loss")
    assert {"var(--0)", "var(--1)"} <= set(re.findall(r"var[^;\"]*", html))
    assert not {"http", "url("} & set(re.findall(r"http|url\(", html))
    assert "<?xml" not in html
    assert "#0101" not in html


def test_two_charts_of_a_page_share_no_name_for_different_parts() -> None:
    charts = [line_chart({name: [(0, 1.0)]}, "epoch", name) for name in ("loss", "accuracy")]
    parts: dict[str, str] = {}
    for name, path in re.findall(r'<path id="(\w+)" d="([^"]*)"', "".join(charts)):
        assert parts.setdefault(name, path) == path


def test_one_point_is_seen() -> None:
    one, two = (line_chart({"train": points}, "epoch", "loss") for points in ([(0, 1.0)], TWO))
    assert one.count("<use ") > two.count("<use "), "it has a mark"


def test_names_are_escaped() -> None:
    html = line_chart({"<b>": TWO, "_$x$\udce9": TWO}, "epoch", "loss & more")
    assert "<b>" not in html
    assert "loss &amp; more" in html
    assert "_$x$\\xe9</text>" in html


def test_many_curves_differ_and_each_is_in_the_legend() -> None:
    names = [f"group {number}" for number in range(12)]
    html = line_chart(dict.fromkeys(names, TWO), "epoch", "accuracy")
    assert all(f">{name}</text>" in html for name in names)
    drawn = re.findall(r'<path d="M [^"]*" style="(fill: none;[^"]*stroke: var\(--[1-6]\)[^"]*)"', html)
    assert len(drawn) == 24, "each is a curve, and a line of the legend"
    assert len(set(drawn)) == 12


def test_bands_are_drawn_where_there_are_any() -> None:
    banded = line_chart({"a": [(0, 1.0, 0.5, 1.5), (1, 2.0, -3.0, 5.0)]}, "epoch", "loss")
    assert "fill: var(--1); fill-opacity: 0.18" in banded
    assert "fill-opacity" not in line_chart({"a": TWO}, "epoch", "loss")


def test_draws_what_is_in_the_figure() -> None:
    empty, full = new_figure(), new_figure()
    full.subplots().plot([0, 1], [0, 1], color="red")
    blank, curve = picture_of(empty), picture_of(full)
    assert blank.mode == curve.mode == "RGB"
    assert curve.size == tuple(inches * DOTS_PER_INCH for inches in SIZE_INCHES)
    assert (np.asarray(blank) == 255).all()
    assert (np.asarray(curve) == (255, 0, 0)).all(axis=2).any()
