"""The values that `comparison.html` shows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from scripts.comparison.comparison import ABSENT, Comparison, Group
from scripts.comparison.runs import Run
from scripts.report.chart import line_chart
from scripts.report.run_curves import NAMES

LONGEST = 60  # letters of a cell that are shown; the configuration of a run has the rest


def page_values(comparison: Comparison, findings: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
    """The values of the page by the names in the template."""
    table, groups = comparison.table, comparison.groups
    return {
        "title": "Comparison of runs",
        "findings": findings,
        "notes": notes,
        "caption": table.caption,
        "kind": "columns" if table.heading[1:] == [group.name for group in groups] else "rows",
        "heading": table.heading,
        "rows": [[cell if len(cell) <= LONGEST else f"{cell[: LONGEST - 1]}…" for cell in row] for row in table.rows],
        "charts": [chart for name in NAMES if (chart := curves_over_each_other(groups, name))],
        "runs": [_run_row(group, run) for group in groups for run in group.runs],
    }


def _run_row(group: Group, run: Run) -> list[str]:
    accuracy = run.figures.get("test/accuracy")
    shown = run.state or (ABSENT if accuracy is None else f"{accuracy:.4f}")
    fold = ABSENT if run.fold is None else str(run.fold)
    return [group.name, str(run.seed), fold, shown, str(run.path)]


def curves_over_each_other(groups: Sequence[Group], name: str) -> Markup | None:
    """Draw a figure of each group by epoch: the mean and, shaded, the range over its runs that got as far."""
    curves: dict[str, list[tuple[float, ...]]] = {}
    for group in groups:
        values: dict[float, list[float]] = {}
        for run in group.counted:
            for epoch, value in run.curves.get(name, ()):
                values.setdefault(epoch, []).append(value)
        if values:
            curves[group.name] = [
                (epoch, float(np.mean(here)), min(here), max(here)) for epoch, here in sorted(values.items())
            ]
    return line_chart(curves, "epoch", name) if curves else None
