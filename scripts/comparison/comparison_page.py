"""Write the page of a comparison: findings, table, learning curves and the list of runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from scripts.comparison.comparison import Comparison
from scripts.comparison.groups import Group
from scripts.report.chart import line_chart
from scripts.report.page import write_page
from scripts.report.run_curves import NAMES


def write_comparison(path: Path, comparison: Comparison, findings: Sequence[str], notes: Sequence[str]) -> None:
    """Write the page; findings and notes are messages above the table."""
    charts = [chart for metric in NAMES if (chart := curves_of_groups(comparison.groups, metric))]
    values = {"comparison": comparison, "findings": findings, "notes": notes, "charts": charts}
    write_page(path, "comparison/comparison.html", title="Comparison of runs", **values)


def curves_of_groups(groups: Sequence[Group], metric: str) -> Markup | None:
    """Draw a metric by epoch for each group: the mean over the runs that reached the epoch, and their range, shaded."""
    curves: dict[str, list[tuple[float, ...]]] = {}
    for group in groups:
        values_by_epoch: dict[float, list[float]] = {}
        for run in group.measured_runs:
            for epoch, value in run.curves.get(metric, ()):
                values_by_epoch.setdefault(epoch, []).append(value)
        if values_by_epoch:
            epochs = sorted(values_by_epoch.items())
            curves[group.name] = [(epoch, float(np.mean(values)), min(values), max(values)) for epoch, values in epochs]
    return line_chart(curves, "epoch", metric) if curves else None
