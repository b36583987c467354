"""The page of an evaluation, part by part.

Shapes: `N` images, `K` classes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from callbacks.tensorboard.confusion_matrix import COLOURS, MOST_NUMBERED, SHADES, shade_levels
from datamodules.decoding.names import readable
from scripts.report import chart
from scripts.report.chart import Axes
from scripts.report.page import escaped
from scripts.uncertainty.calibration import Reliability

CELL = 16
"""Pixels of a cell of the confusion matrix where its class names are to be read."""

LONGEST_NAME = 18
"""Letters of a class name that are written beside the confusion matrix."""

STYLE = (
    chart.STYLE
    + """
h2 { margin-top: 2.5rem; } h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
.headline { font-size: 1.25rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .75rem; }
.pictures.double { grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem), 1fr)); }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem 2rem; }
.pairs .pictures { grid-template-columns: repeat(auto-fill, minmax(4.5rem, 1fr)); }
.double .both { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.matrix { overflow: auto; width: fit-content; max-width: 100%; max-height: 85vh; border: 1px solid var(--line); }
.matrix svg { display: block; font-family: system-ui, sans-serif; background: var(--paper); }
.matrix text { fill: var(--ink); } .matrix text.light { fill: #fff; } .matrix text.dark { fill: #111; }
.matrix .frame { fill: none; stroke: var(--line); }
.whole:checked ~ .matrix { width: auto; } .whole:checked ~ .matrix svg { width: 100%; height: auto; }
.readout { min-height: 1.4em; margin: .25rem 0; }
.reliability .bar { fill: var(--1); } .reliability .ideal { stroke: var(--ink); stroke-dasharray: 4 3; }
.reliability .gap { stroke: var(--2); stroke-width: 3; }
.classes td, .classes th { padding-right: 1rem; } .classes thead th { cursor: pointer; }
.classes .scroll { max-height: 85vh; overflow: auto; } .classes thead th { position: sticky; top: 0;
  background: var(--paper); }
.range { color: var(--quiet); font-size: .8rem; }
"""
    + "".join(f".s{number} {{ fill: {colour}; }}" for number, colour in enumerate(COLOURS, start=1))
    + """
@media (prefers-color-scheme: dark) { """
    + "".join(
        f".s{number} {{ fill: {colour}; }}"
        for number, colour in enumerate(
            ("#24324a", "#334766", "#4a5f80", "#66799a", "#8a94a0", "#b0a778", "#d6bf54", "#fee838"), start=1
        )
    )
    + """ .matrix text.light { fill: #111; } .matrix text.dark { fill: #fff; } }
"""
)

SCRIPT = """
for (const box of document.querySelectorAll('.matrix')) {
  const data = JSON.parse(box.dataset.counts), names = data.names, say = box.parentElement.querySelector('.readout');
  const svg = box.querySelector('svg'), counts = new Map(data.cells.map(([row, column, n]) => [row + ' ' + column, n]));
  const tell = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const row = Math.floor((at.y - data.top) / data.cell), column = Math.floor((at.x - data.left) / data.cell);
    if (!(row in names) || !(column in names)) return;
    const n = counts.get(row + ' ' + column) || 0;
    say.textContent = names[row] + ' taken for ' + names[column] + ': ' + n + ' of ' + data.totals[row];
  };
  svg.addEventListener('pointermove', tell); svg.addEventListener('pointerdown', tell);
}
for (const heading of document.querySelectorAll('.classes thead th')) heading.addEventListener('click', () => {
  const body = heading.closest('table').tBodies[0], column = heading.cellIndex, rows = [...body.rows];
  const key = row => row.cells[column].dataset.key;
  const down = heading.dataset.down = heading.dataset.down === '1' ? '0' : '1';
  const by = (a, b) => column ? a - b : a.localeCompare(b);
  rows.sort((a, b) => (down === '1' ? 1 : -1) * by(key(a), key(b)));
  body.append(...rows);
});
"""


@dataclass(frozen=True)
class ShownImage:
    """An image with what is to be said of it.

    Args:
        pictures: The image, and where in it the network looked, if that is known; HTML.
        caption: Lines of plain text.
    """

    pictures: Sequence[str]
    caption: Sequence[str]


def figures(images: Sequence[ShownImage]) -> str:
    """Lay images out.

    Returns:
        HTML.
    """
    parts = []
    for image in images:
        caption = "<br>".join(map(escaped, image.caption))
        both = f'<div class="both">{"".join(image.pictures)}</div>' if len(image.pictures) > 1 else image.pictures[0]
        parts.append(f"<figure>{both}<figcaption>{caption}</figcaption></figure>")
    double = " double" if any(len(image.pictures) > 1 for image in images) else ""
    return f'<div class="pictures{double}">{"".join(parts)}</div>'


def confusion_matrix(confusion: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Draw how many images of each class, in rows, were taken for each class, in columns.

    The shade is the share of the row's class, by `SHADES`. Up to 20 classes each cell has its number; of any number of
    classes, the cell under the pointer or the finger is told in words.

    Args:
        confusion: int64 `[K, K]`.
        class_names: `K` names.

    Returns:
        HTML.
    """
    count = len(class_names)
    names = [readable(name) for name in class_names]
    numbered = count <= MOST_NUMBERED
    digits = len(f"{confusion.max():,}")
    cell = max(34, 9 * digits + 10) if numbered else CELL
    letter = 13 if numbered else 11
    short = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]
    left = round(0.62 * letter * max(map(len, short))) + 26
    upright = numbered and max(map(len, short)) * 0.62 * letter < cell
    top = 2 * letter + 14 if upright else left
    side = cell * count
    totals = confusion.sum(axis=1)
    levels = shade_levels(confusion)
    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>']
    for level in range(1, len(SHADES) + 2):
        squares = "".join(
            f"M{left + column * cell} {top + row * cell}h{cell}v{cell}h-{cell}z"
            for row, column in np.argwhere(levels == level)
        )
        if squares:
            parts.append(f'<path class="s{level}" d="{squares}"/>')
    for place, name in enumerate(short):
        middle = (place + 0.5) * cell
        parts.append(
            f'<text x="{left - 5}" y="{top + middle + letter / 3:.0f}" text-anchor="end">{escaped(name)}</text>'
        )
        if upright:
            parts.append(f'<text x="{left + middle:.0f}" y="{top - 6}" text-anchor="middle">{escaped(name)}</text>')
        else:
            x, y = round(left + middle + letter / 3), top - 5
            parts.append(f'<text transform="translate({x} {y}) rotate(-90)">{escaped(name)}</text>')
    if numbered:
        for row, column in np.argwhere(confusion):
            shade = "light" if levels[row, column] > len(SHADES) // 2 + 1 else "dark"
            x, y = left + (column + 0.5) * cell, top + (row + 0.5) * cell + 4
            number = f"{confusion[row, column]:,}"
            parts.append(f'<text class="{shade}" x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{number}</text>')
    # In the middle of a side that is seen whole, else where a reader begins.
    along, anchors = (side / 2, ("middle", "middle")) if numbered else (0, ("start", "end"))
    bold = 'font-weight="600"'
    parts.append(f'<text x="{left + along:.0f}" y="{letter}" text-anchor="{anchors[0]}" {bold}>predicted</text>')
    turned = f'transform="translate({letter} {top + along:.0f}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="{anchors[1]}" {bold}>label</text>')
    cells = [[int(row), int(column), int(confusion[row, column])] for row, column in np.argwhere(confusion)]
    told = {"names": names, "totals": totals.tolist(), "cells": cells, "left": left, "top": top, "cell": cell}
    width, height = left + side + 8, top + side + 8
    svg = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-size="{letter}" role="img" '
        f'aria-label="confusion matrix">{"".join(parts)}</svg>'
    )
    whole = (
        ""
        if numbered
        else '<input type="checkbox" class="whole" id="whole" checked> <label for="whole">show all of it</label>'
    )
    return (
        f'<div>{whole}<p class="readout quiet">Point at a cell.</p>'
        f'<div class="matrix" data-counts="{escaped(json.dumps(told))}">{svg}</div></div>'
    )


def reliability_diagram(found: Reliability, width: float, title: str) -> str:
    """Draw how often predictions of each probability are right.

    Args:
        found: What was found.
        width: Of a bin.
        title: What was looked at; plain text.

    Returns:
        HTML.
    """
    axes = Axes((0, 1), (0, 1), "probability of the class predicted", "share that is right")
    parts = []
    for low, images, probability, accuracy in zip(
        found.low, found.images, found.probability, found.accuracy, strict=True
    ):
        (x, y), (end, bottom) = axes.place(low, accuracy), axes.place(low + width, 0)
        middle, ideal = axes.place(probability, probability)
        opacity = 0.25 + 0.65 * (images / max(found.images)) ** 0.5
        tip = f"{images:,} images, probability {probability:.3f}, right {accuracy:.3f}"
        size = f'width="{end - x - 2:.1f}" height="{bottom - y:.1f}"'
        parts.append(
            f'<rect class="bar" opacity="{opacity:.2f}" x="{x + 1:.1f}" y="{y:.1f}" {size}><title>{tip}</title></rect>'
            f'<line class="gap" x1="{middle:.1f}" x2="{middle:.1f}" y1="{y:.1f}" y2="{ideal:.1f}"/>'
        )
    (x, y), (end, top) = axes.place(0, 0), axes.place(1, 1)
    parts.append(f'<line class="ideal" x1="{x}" y1="{y}" x2="{end}" y2="{top}"/>')
    caption = f"<h3>{escaped(title)}: ECE {found.ece:.4f}</h3>"
    return f'<div class="reliability">{caption}{axes.drawn("".join(parts), title)}</div>'


def class_table(
    class_names: Sequence[str],
    confusion: NDArray[np.int64],
    measured: NDArray[np.float64],
    intervals: NDArray[np.float64],
) -> str:
    """List precision, recall and F1 of each class with their intervals.

    Args:
        class_names: `K` names.
        confusion: int64 `[K, K]`.
        measured: Precision, recall and F1, float64 `[3, K]`.
        intervals: Their low and high ends, float64 `[2, 3, K]`.

    Returns:
        HTML; a click on a column's heading sorts by it.
    """
    headings = ("class", "images", "predicted", "precision", "recall", "F1")
    rows = []
    for label, name in enumerate(class_names):
        cells = [f'<th data-key="{escaped(name)}">{escaped(name)}</th>']
        numbers = confusion[label].sum(), confusion[:, label].sum()
        cells += [f'<td class="number" data-key="{number}">{number:,}</td>' for number in numbers]
        for kind in range(3):
            value, (low, high) = measured[kind, label], intervals[:, kind, label]
            key = -1 if np.isnan(value) else value
            shown = "none" if np.isnan(value) else f"{value:.3f}"
            range_ = "" if np.isnan(low) or np.isnan(value) else f"{low:.3f} to {high:.3f}"
            cells.append(f'<td class="number" data-key="{key:.6f}">{shown} <span class="range">{range_}</span></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heading = "".join(
        f'<th scope="col"{"" if n == 0 else " class=number"}>{name}</th>' for n, name in enumerate(headings)
    )
    return (
        f'<div class="classes wide"><div class="scroll"><table><thead><tr>{heading}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def training_curves(curves: Mapping[str, Mapping[str, Sequence[chart.Point]]]) -> str:
    """Draw loss and accuracy over the epochs.

    Args:
        curves: For each figure, the curve of each split.

    Returns:
        HTML.
    """
    drawn = [chart.line_chart(splits, "epoch", figure) for figure, splits in curves.items()]
    return f'<div class="charts">{"".join(drawn)}</div>'


Pictured = Callable[[Sequence[int]], list[ShownImage]]
"""Gives images at some rows of the predictions with their captions."""
