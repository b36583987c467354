"""The values that `comparison.html` shows."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from scripts.comparison.comparison import Comparison, Group
from scripts.comparison.runs import Run
from scripts.report.chart import line_chart
from scripts.report.differences import ABSENT

LONGEST = 60  # letters of a cell that are shown; the configuration of a run has the rest


def page_values(comparison: Comparison, findings: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
    """The values of the page by the names in the template."""
    table, groups = comparison.table, comparison.groups
    charts = [
        curves_over_each_other(groups, figure, split) for figure in ("loss", "accuracy") for split in ("train", "val")
    ]
    return {
        "title": "Comparison of runs",
        "findings": findings,
        "notes": notes,
        "caption": table.caption,
        "kind": "columns" if table.heading[1:] == [group.name for group in groups] else "rows",
        "heading": table.heading,
        "rows": [[cell if len(cell) <= LONGEST else f"{cell[: LONGEST - 1]}…" for cell in row] for row in table.rows],
        "charts": [chart for chart in charts if chart],
        "several": any(len(group.counted) > 1 for group in groups),
        "runs": [_run_row(group, run) for group in groups for run in group.runs],
    }


def _run_row(group: Group, run: Run) -> list[str]:
    accuracy = run.figures.get("test/accuracy")
    shown = run.state or (ABSENT if accuracy is None else f"{accuracy:.4f}")
    seed = str(run.seed) if run.fold is None else f"{run.seed}, fold {run.fold}"
    return [group.name, seed, shown, str(run.path)]


def curves_over_each_other(groups: Sequence[Group], figure: str, split: str) -> Markup | None:
    """Draw a figure of each group by epoch, with the range over its runs."""
    curves = {group.name: curve for group in groups if (curve := group.curve(figure, split))}
    if not curves:
        return None
    return line_chart(curves, "epoch", f"{split}/{figure}")
