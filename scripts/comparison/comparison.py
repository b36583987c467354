"""Put the settings, metrics and costs of groups of runs side by side, as a table and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from core.names import escape_name, near_names
from core.user_error import UserError
from scripts.comparison.groups import Group, group_runs
from scripts.comparison.runs import COSTS, Run
from scripts.comparison.settings import MISSING, differing_keys, shown_values
from scripts.report.table import Bold, Table
from scripts.uncertainty.mean import INTERVAL, RULES, Mean, caption

# The metrics of the table by default, in order.
METRICS = [
    f"{split}/{name}"
    for split in ("test", "val", "train")
    for name in ("accuracy", "top5_accuracy", "exact_match", "loss")
]

MOST_COLUMNS = 8  # with more groups, each group is a row of the table instead of a column


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, with what is shown of them. The first group is the reference."""

    groups: list[Group]
    notes: list[str]  # messages about runs that do not count or are not comparable
    selected: Sequence[str] = ()  # the metrics of the table, instead of METRICS
    percent: bool = False  # show fractions in percent
    bold: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)  # by metric and group
    bold_caption: str = ""  # what bold means

    @cached_property
    def metrics(self) -> list[str]:
        """The selected metrics; by default, those of METRICS that a group has."""
        return list(self.selected) or [name for name in METRICS if any(group.values(name) for group in self.groups)]

    def heading_and_scale(self, metric: str) -> tuple[str, int]:
        """Return a metric's heading and its factor: 100 for a metric in [0, 1] where higher is better, in percent."""
        values = [value for group in self.groups for value in group.values(metric)]
        is_fraction = self.groups[0].direction(metric) == "max" and all(0 <= value <= 1 for value in values)
        name = escape_name(metric)
        return (f"{name} (%)", 100) if self.percent and is_fraction else (name, 1)

    def _row(self, metric: str) -> list[str]:
        heading, scale = self.heading_and_scale(metric)
        cells = []
        for group in self.groups:
            cell = _cell(metric, group.mean(metric), scale)
            cells.append(Bold(cell) if self.bold.get(metric, {}).get(group.name) else cell)
        return [heading, *cells]

    @cached_property
    def table(self) -> Table:
        """Differing settings, metrics and costs, with a column for each group, or a row if there are many groups.

        If the user selected metrics, the table holds these alone, and the settings if the groups are only numbered.
        """
        settings = [group.settings for group in self.groups]
        setting_rows = [[key, *shown_values(settings, key)] for key in differing_keys(settings)]
        metric_rows = [self._row(metric) for metric in self.metrics]
        if self.selected:
            parts = [setting_rows if self.groups[0].name.startswith("#") else [], metric_rows]
        else:
            run_row = ["runs", *map(_number_of_runs, self.groups)]
            parts = [[run_row], setting_rows, metric_rows, [self._row(cost) for cost in COSTS]]
        breaks = {sum(map(len, parts[:place])) for place in range(1, len(parts))}
        means = [group.mean(metric) for metric in self.metrics if metric not in COSTS for group in self.groups]
        text = f"{caption([mean for mean in means if mean])} {self.bold_caption}".strip()
        heading = ["", *(group.name for group in self.groups)]
        table = Table(heading, [row for part in parts for row in part], frozenset(breaks), text)
        return table.turned() if self.selected or len(self.groups) > MOST_COLUMNS else table

    def records(self) -> list[dict[str, Any]]:
        """Return a dictionary for each group: its settings, and means and interval ends without rounding."""
        keys = differing_keys([group.settings for group in self.groups])
        records = []
        for group in self.groups:
            over = "fold" if group.folds else "seed"
            record: dict[str, Any] = {
                "group": group.name,
                "experiment": escape_name(group.runs[0].experiment),
                "runs": len(group.runs),
                "tested": sum(not run.state for run in group.runs),
                "seeds": " ".join(str(run.seed) for run in group.runs),
                "folds": " ".join(str(run.fold) for run in group.runs if run.fold is not None),
                **{key: escape_name(group.settings.get(key, "")) for key in keys},
                "interval": f"{INTERVAL} of the mean over {over}s{RULES[over]}",
            }
            for metric in dict.fromkeys([*self.metrics, *COSTS]):
                mean = group.mean(metric)
                heading, scale = self.heading_and_scale(metric)
                record[heading] = scale * mean.value if mean else None
                if metric not in COSTS:
                    ends = [scale * end for end in mean.interval] if mean and mean.interval else [None, None]
                    record[f"{heading}_low"], record[f"{heading}_high"] = ends
                    record[f"{heading}_bold"] = self.bold.get(metric, {}).get(group.name)
            records.append(record)
        return records

    def as_csv(self) -> str:
        """Return the records as the text of a CSV file."""
        records, text = self.records(), io.StringIO(newline="")
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()


def compare_runs(runs: Sequence[Run], selected: Sequence[str] = (), percent: bool = False) -> Comparison:
    """Group runs and choose the metrics to show; raises UserError for a selected metric that no run has."""
    available = sorted({name for run in runs for name in run.metrics})
    for name in selected:
        if name not in available:
            raise UserError(f"No run has the metric {escape_name(name)}; {near_names(name, available)}")
    return Comparison(*group_runs(runs), tuple(dict.fromkeys(selected)), percent)


def _number_of_runs(group: Group) -> str:
    """Return, for example, `2 of 3 (seeds 0, 1, 2)`."""
    parts = [f"seeds {', '.join(dict.fromkeys(str(run.seed) for run in group.runs))}"]
    if group.folds:
        parts.append(f"folds {', '.join(dict.fromkeys(str(run.fold) for run in group.runs))}")
    tested = sum(not run.state for run in group.runs)
    number = f"{tested} of {len(group.runs)}" if 0 < tested < len(group.runs) else str(len(group.runs))
    return f"{number} ({'; '.join(parts)})"


def _cell(metric: str, mean: Mean | None, scale: int) -> str:
    if mean is None:
        return MISSING
    if metric not in COSTS:
        return mean.shown(scale)
    return f"{mean.value:,.1f}".removesuffix(".0") if metric in ("epochs", "seconds") else f"{mean.value:,.0f}"
