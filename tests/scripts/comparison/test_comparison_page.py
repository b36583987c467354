from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts.comparison.comparison import Comparison, compare_runs
from scripts.comparison.comparison_page import curves_of_groups, write_comparison
from scripts.comparison.runs import read_run
from tests.scripts.browser import LOOKS, asked, needs_browser
from tests.scripts.comparison.test_comparison import runs
from tests.scripts.comparison.test_runs import write_run


def page(folder: Path, groups: int, **config: object) -> Path:
    many = [run for n in range(groups) for run in runs(folder, 0.9, 0.8 + n / 500, name=f"x{n}", lr=n, **config)]
    file = folder / "comparison.html"
    return write(file, compare_runs(many), ["B is better than A."], ["A <b> is unfinished."])


def write(file: Path, comparison: Comparison, findings: Sequence[str] = (), notes: Sequence[str] = ()) -> Path:
    write_comparison(file, comparison, findings, notes)
    return file


def test_has_findings_table_curves_and_runs(tmp_path: Path) -> None:
    text = page(tmp_path, 2).read_text()
    HTMLParser().feed(text)
    assert text.index("B is better than A.") < text.index("A &lt;b&gt; is unfinished.") < text.index("<h2>Settings")
    assert "<th>lr</th>" in text
    assert "0.9010 ± " in text or "0.8500 ± " in text
    assert text.count('<svg class="chart"') == 3, (
        "there are train/loss, val/loss and val/accuracy, and no train/accuracy"
    )
    assert all(str(tmp_path / f"x{n}" / str(seed)) in text for n in range(2) for seed in range(2))
    assert "http" not in text
    assert "url(" not in text


def test_curves_are_means_with_the_range_of_the_runs_that_got_as_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = runs(tmp_path, 0.9, 0.8)
    two[1].curves["val/loss"] = [(0, 3.5)]
    groups = compare_runs(two).groups
    assert "fill-opacity" in str(curves_of_groups(groups, "val/loss"))
    monkeypatch.setattr("scripts.comparison.comparison_page.line_chart", lambda curves, *_: curves)
    drawn: object = curves_of_groups(groups, "val/loss")
    assert drawn == {"digits/mlp": [(0, 3.0, 2.5, 3.5), (1, 1.5, 1.5, 1.5)]}
    assert curves_of_groups(groups, "train/accuracy") is None


def test_without_curves_there_is_no_chart(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x/0")
    (folder / "metrics.csv").unlink()
    assert "Learning curves" not in write(tmp_path / "page.html", compare_runs([read_run(folder)])).read_text()


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    hostile = {"experiment": "</table><script>x", "k": "<img src=x></td><script>y" + "z" * 300}
    text = page(tmp_path, 1, **hostile).read_text()
    both = [*runs(tmp_path, 0.9, name="h", **hostile), *runs(tmp_path, 0.9)]
    other = write(tmp_path / "other.html", compare_runs(both)).read_text()
    for html in (text, other):
        assert "<script>" not in html
        assert "<img" not in html
    assert "z" * 300 in other


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("width", "dark", "groups"), [(390, False, 3), (1200, True, 40)])
def test_in_a_browser_nothing_is_cut_off_or_loaded(tmp_path: Path, width: int, dark: bool, groups: int) -> None:
    (tmp_path / "browser").mkdir()
    seen = asked(page(tmp_path, groups), tmp_path / "browser", LOOKS, width, dark=dark)
    assert seen["width"] <= width
    assert seen["loaded"] == 0
    assert seen["paper"] == ("rgb(22, 22, 22)" if dark else "rgb(255, 255, 255)")
