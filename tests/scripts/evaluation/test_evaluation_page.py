import html
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from markupsafe import Markup
from PIL import Image

from callbacks.tensorboard.confusion_picture import confusion_picture
from scripts.evaluation.evaluation import Evaluation
from scripts.evaluation.evaluation_page import SMALLEST_SIDE, confusion_matrix, overlay, reliability_diagram
from scripts.inference.predictions import Predictions
from scripts.uncertainty.calibration import reliability
from tests.scripts.report.test_page import filled

CELLS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def drawn(macro: str, values: Any) -> str:
    return filled("evaluation/parts.html", macro, values)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 10, 20, 21, 200])
def test_the_matrix_is_a_picture_and_holds_every_count(classes: int) -> None:
    confusion = np.random.default_rng(0).integers(0, 3, (classes, classes)) + 40 * np.eye(classes, dtype=np.int64)
    names = [f"class {number}" for number in range(classes)]
    text = drawn("confusion_matrix", confusion_matrix(confusion, names, confusion.sum(axis=1)))
    (told,) = re.findall(r'data-counts="([^"]*)"', text)
    data = json.loads(html.unescape(told))
    assert data["names"] == names
    assert text.count("data:image/png;base64,") == 1
    assert data["totals"] == confusion.sum(axis=1).tolist()
    rebuilt = np.zeros_like(confusion)
    for row, column, count in data["cells"]:
        rebuilt[row, column] = count
    assert (rebuilt == confusion).all()
    assert ('type="checkbox"' in text) == (classes > 20)
    assert len(text) < 2_000_000


def test_cells_are_drawn_where_the_counts_are() -> None:
    confusion = np.array([[5, 0], [1, 3]])
    text = drawn("confusion_matrix", confusion_matrix(confusion, ["<script>", "n" * 300], np.array([5, 4])))
    assert "<script>" not in text
    counts = json.loads(html.unescape(re.findall(r'data-counts="([^"]*)"', text)[0]))
    pixels = np.asarray(confusion_picture(confusion, ["<script>", "n" * 300]))
    places = [[counts["before"] + 4 + counts["cell"] * place for place in cell] for cell in CELLS]
    white = [(pixels[row, column] == 255).all() for row, column in places]
    assert white == [False, True, False, False]


def test_every_bin_is_a_bar() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (500, 4))
    found = reliability(logits, logits.argmax(axis=1) * 0)
    text = reliability_diagram(found, "as it is")
    assert text.count('style="fill: var(--1); opacity: ') == len(found.images)


def test_classes_without_figures_say_so() -> None:
    labels, taken = np.array([0, 0, 0, 0, 1, 1, 1, 1]), [0, 0, 0, 1, 1, 1, 1, 1]
    tested = Predictions(["a", "b", "<c>"], list("abcdefgh"), np.arange(8), labels, np.eye(3, dtype=np.float32)[taken])
    nothing: Any = None
    evaluation = Evaluation(nothing, nothing, "test", tested, tested)
    text = filled("evaluation/parts.html", "class_table", evaluation.classes, evaluation.class_numbers)
    assert text.count("<tr>") == 4
    assert text.count("none") == 3
    assert "0.750" in text
    assert "&lt;c&gt;" in text
    assert "nan" not in text


def test_images_stand_beside_what_was_looked_at() -> None:
    picture = Markup("<img>")
    one = {"picture": picture, "caption": ["<a>", "b"], "heatmap": None}
    two = {"picture": picture, "caption": ["c"], "heatmap": picture}
    assert "&lt;a&gt;<br>b" in drawn("figures", [one])
    assert "double" not in drawn("figures", [one])
    assert 'class="both"' in drawn("figures", [two])


@pytest.mark.parametrize("size", [(8, 6), (200, 100)])
def test_a_map_colours_the_image_where_it_is_high(size: tuple[int, int]) -> None:
    seen = torch.zeros(size[1], size[0])
    seen[:, size[0] // 2 :] = 1
    picture = overlay(Image.new("RGB", size, "white"), seen)
    assert max(picture.size) >= min(SMALLEST_SIDE, max(picture.size))
    assert picture.width * size[1] == picture.height * size[0]
    pixels = np.asarray(picture).astype(int)
    assert pixels[:, -1].mean() > pixels[:, 0].mean()
    assert (pixels[0, 0].max() - pixels[0, 0].min()) < 10, "grey where nothing is seen"
