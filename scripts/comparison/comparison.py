"""Group runs by their settings, and put settings, figures and costs of the groups side by side."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from callbacks.run.run_folder import order_of_start
from core.names import escape_name, near_names
from core.user_error import UserError
from datamodules.packing.pack import FINGERPRINT
from models.training.monitor import Mode, direction
from scripts.comparison.runs import COSTS, Run
from scripts.report.run_curves import NAMES
from scripts.report.table import Bold, Table
from scripts.uncertainty.mean import INTERVAL, RULES, Mean, caption, mean_of_runs

# The figures that are compared if nothing else is asked for, in the order in which they are shown.
FIGURES = [
    f"{split}/{name}"
    for split in ("test", "val", "train")
    for name in ("accuracy", "top5_accuracy", "exact_match", "loss")
]

# The settings that decide which images are tested on.
DATA = (
    *("data", "data.folder", "data.classes", "data.limit", "data.test_size"),
    *("data.split_seed", "data.split_rule", "data.on_corrupt", "data.folds", "data.fold"),
)

MODULE = re.compile(r"(?:^|(?<=[\[(= ]))(?:[a-z_]\w*\.)+(?=[A-Z]\w*(?:[(,)\]]|$))")  # a class's module, before its name

ABSENT = "-"  # stands for an unknown value
LONGEST_NAME = 30  # letters of a group's name; if one were longer, all are numbered
MOST_COLUMNS = 8  # groups of a table in which each has a column
NULL = "null"  # the value that stands for a setting that an older run lacks
OFF = {NULL, "false", "[]", "{}", "0", "0.0"}  # an argument of one class alone is not shown if it is one of these


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed and their fold alone."""

    name: str
    runs: list[Run]

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings of its runs."""
        return self.runs[0].settings

    @cached_property
    def counted(self) -> list[Run]:
        """The runs whose figures count: the tested ones, or all if none was tested."""
        return [run for run in self.runs if not run.state] or self.runs

    @cached_property
    def folds(self) -> int:
        """How many folds the images are divided into; 0 if its runs are not of folds."""
        there = max((run.fold + 1 for run in self.runs if run.fold is not None), default=0)
        number = self.settings.get("data.folds", "")
        return int(number) if there and number.isdecimal() else there

    def measured(self, name: str) -> list[tuple[int | None, float]]:
        """A figure of each run that has it, with the run's fold."""
        return [(run.fold, run.figures[name]) for run in self.counted if name in run.figures]

    def values(self, name: str) -> list[float]:
        """The same without folds."""
        return [value for _, value in self.measured(name)]

    def mean(self, name: str) -> Mean | None:
        """The mean of a figure over the folds, or without folds over the runs, that have it."""
        measured = self.measured(name)
        return mean_of_runs(measured, self.folds) if measured else None

    def direction(self, figure: str) -> Mode | None:
        """Whether lower or higher is better, as the monitor's mode or the figure's name says; None if neither does."""
        monitor, mode = (self.settings.get(f"checkpoint.{key}", "null") for key in ("monitor", "mode"))
        is_monitor = mode != "null" and monitor.rpartition("/")[2] == figure.rpartition("/")[2]
        with suppress(UserError):
            return direction(figure, mode if is_monitor else None, figure)
        return None


@dataclass(frozen=True)
class Comparison:
    """Groups of runs in the order in which they were named; the first is the reference."""

    groups: list[Group]
    notes: list[str]  # sentences about runs that do not count or are hard to compare
    asked: tuple[str, ...] = ()  # the figures of the table, if not the usual
    percent: bool = False  # True if shares are written in percent
    standing: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)  # bold or not, by figure and group
    bold: str = ""  # what bold stands for

    @cached_property
    def figures(self) -> list[str]:
        """The figures that were asked for, or the usual ones that any group has."""
        return list(self.asked) or [name for name in FIGURES if any(group.mean(name) for group in self.groups)]

    def unit(self, figure: str) -> tuple[str, int]:
        """A figure's name with its unit, and what it is multiplied by: 100 for what is better higher and in [0, 1]."""
        values = [value for group in self.groups for value in group.values(figure)]
        share = self.percent and self.groups[0].direction(figure) == "max" and all(0 <= value <= 1 for value in values)
        return (f"{escape_name(figure)} (%)", 100) if share else (escape_name(figure), 1)

    def _row(self, figure: str) -> list[str]:
        name, scale = self.unit(figure)
        bold = self.standing.get(figure, {})
        cells = [(group.name, _shown(figure, group.mean(figure), scale)) for group in self.groups]
        return [name, *(Bold(cell) if bold.get(group) else cell for group, cell in cells)]

    @cached_property
    def table(self) -> Table:
        """Settings that differ, figures and costs; each group is a column, or a row if there are many groups.

        Figures that were asked for are columns by themselves, with the settings if the groups are only numbered.
        """
        are_numbered = self.groups[0].name.startswith("#")
        settings = [[key, *shown_setting(self.groups, key)] for key in differing(self.groups)]
        figures, costs = ([self._row(name) for name in names] for names in (self.figures, COSTS))
        runs = [["runs", *map(_number_of_runs, self.groups)]]
        parts = [settings if are_numbered else [], figures] if self.asked else [runs, settings, figures, costs]
        breaks = {sum(map(len, parts[:place])) for place in range(1, len(parts))}
        means = [group.mean(name) for name in self.figures if name not in COSTS for group in self.groups]
        said = f"{caption([mean for mean in means if mean])} {self.bold}".strip()
        heading = ["", *(group.name for group in self.groups)]
        table = Table(heading, [row for part in parts for row in part], frozenset(breaks), said)
        return table.turned() if self.asked or len(self.groups) > MOST_COLUMNS else table

    def records(self) -> list[dict[str, Any]]:
        """A mapping for each group, with numbers in full: the mean of each figure and the ends of its interval."""
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
                **{key: escape_name(group.settings.get(key, "")) for key in differing(self.groups)},
                "interval": f"{INTERVAL} of the mean over {over}s{RULES[over]}",
            }
            for figure in dict.fromkeys([*self.figures, *COSTS]):
                mean, (name, scale) = group.mean(figure), self.unit(figure)
                record[name] = scale * mean.value if mean else None
                if figure not in COSTS:
                    low, high = mean.interval if mean and mean.interval else (None, None)
                    record[f"{name}_low"], record[f"{name}_high"] = low and scale * low, high and scale * high
                    record[f"{name}_bold"] = self.standing.get(figure, {}).get(group.name)
            records.append(record)
        return records

    def as_csv(self) -> str:
        """The records as a CSV file."""
        records, text = self.records(), io.StringIO(newline="")
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()


def differing(groups: Sequence[Group]) -> list[str]:
    """The settings that are not the same in all groups, without those that are off and that another class lacks."""
    values = {key: {group.settings.get(key) for group in groups} for group in groups for key in group.settings}
    shown = []
    for key, of in values.items():
        is_of_one_class = None in of and len(values.get(key.rpartition(".")[0], ())) > 1
        if len(of) > 1 and not of <= {None, NULL} and not (is_of_one_class and of <= {None, *OFF}):
            shown.append(key)
    return shown


def shown_setting(groups: Sequence[Group], key: str) -> list[str]:
    """A setting's value in each group; classes without their modules, unless these are the difference."""
    values = [group.settings.get(key, ABSENT) for group in groups]
    short = [MODULE.sub("", value) for value in values]
    return list(map(escape_name, short if len(set(short)) == len(set(values)) else values))


def _number_of_runs(group: Group) -> str:
    numbers = {"seed": [run.seed for run in group.runs], "fold": [run.fold for run in group.runs if group.folds]}
    told = [f"{name}s {', '.join(map(str, dict.fromkeys(each)))}" for name, each in numbers.items() if each]
    tested = sum(not run.state for run in group.runs)
    number = f"{tested} of {len(group.runs)}" if 0 < tested < len(group.runs) else str(len(group.runs))
    return f"{number} ({'; '.join(told)})"


def _shown(name: str, mean: Mean | None, scale: int) -> str:
    if mean is None:
        return ABSENT
    if name not in COSTS:
        return mean.shown(scale)
    return f"{mean.value:,.1f}".removesuffix(".0") if name in ("epochs", "seconds") else f"{mean.value:,.0f}"


def compare_runs(runs: Sequence[Run], asked: Sequence[str] = (), percent: bool = False) -> Comparison:
    """Group runs that differ in their seed and fold alone; of each seed, in each fold, the newest run counts."""
    known = sorted({name for run in runs for name in run.figures})
    for name in asked:
        if name not in known:
            raise UserError(f"No run has the figure {escape_name(name)}; {near_names(name, known)}")
    together: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        chosen = frozenset((key, value) for key, value in run.settings.items() if value != NULL)
        together.setdefault(chosen, []).append(run)
    groups, notes = [], []
    for name, members in zip(_names(list(together.values())), together.values(), strict=True):
        newest: dict[object, Run] = {}
        for run in members:
            key = run.path if run.seed is None else (run.seed, run.fold)
            newest[key] = _newer(newest[key], run) if key in newest else run
        order = sorted(newest.values(), key=lambda run: (run.fold or 0, run.seed is None, run.seed or 0))
        groups.append(group := Group(name, order))
        if lacking := sorted({*range(group.folds)} - {run.fold for run in group.counted}):
            notes.append(
                f"Of {group.folds} folds, {name} lacks {', '.join(map(str, lacking))}: its means are over the others."
            )
        if repeated := len(members) - len(newest):
            notes.append(
                f"{repeated} runs of {name} repeat the seed of another; only the newest run of each seed counts."
            )
    notes += [f"{run.path} is {run.state}." for group in groups for run in group.runs if run.state]
    hardware = {run.hardware for group in groups for run in group.counted if run.hardware}
    if len(hardware) > 1:
        notes.append(f"Times are not comparable: the hardware of the runs differs ({'; '.join(sorted(hardware))}).")
    return Comparison(groups, notes, tuple(dict.fromkeys(asked)), percent)


def _names(members: Sequence[list[Run]]) -> list[str]:
    """Name groups by what tells them apart; number them if a name would be long."""
    groups = [Group("", runs) for runs in members]
    experiments = [escape_name(group.runs[0].experiment) for group in groups]
    if len(groups) == 1:
        return experiments
    names = names_by_difference({"": experiments} | {key: shown_setting(groups, key) for key in differing(groups)})
    if len({*names}) == len(groups) and max(map(len, names)) <= LONGEST_NAME:
        return names
    return [f"#{number} {experiment}" for number, experiment in enumerate(experiments, start=1)]


def names_by_difference(settings: Mapping[str, Sequence[str]]) -> list[str]:
    """Name groups by the first settings that tell them apart; the setting "" stands for its value alone."""
    telling: dict[str, Sequence[str]] = {}
    told = 1
    for key, values in settings.items():
        if (more := len({*zip(*telling.values(), values, strict=True)})) > told:
            telling[key], told = values, more
    ends = [key.rpartition(".")[2] for key in telling]
    keys = ends if len({*ends}) == len(ends) else list(telling)
    return [" ".join(map(_told, keys, values)) for values in zip(*telling.values(), strict=True)]


def _told(key: str, value: str) -> str:
    is_class = value.isidentifier() and value[0].isupper()
    return value if is_class or not key else f"{key}={value}"


def _newer(one: Run, other: Run) -> Run:
    # Starts are numbered within an experiment.
    first = 0 if one.path.parent == other.path.parent else 1
    return max(one, other, key=lambda run: (not run.state, order_of_start(run.path)[first:]))


def curves_over_each_other(groups: Sequence[Group], name: str) -> Markup | None:
    """Draw a figure of each group by epoch: the mean and, shaded, the range over its runs that got as far."""
    from scripts.report.chart import line_chart

    curves: dict[str, list[tuple[float, ...]]] = {}
    for group in groups:
        values: dict[float, list[float]] = {}
        for epoch, value in (point for run in group.counted for point in run.curves.get(name, ())):
            values.setdefault(epoch, []).append(value)
        if values:
            curves[group.name] = [(x, float(np.mean(here)), min(here), max(here)) for x, here in sorted(values.items())]
    return line_chart(curves, "epoch", name) if curves else None


def write_comparison(path: Path, comparison: Comparison, findings: Sequence[str], notes: Sequence[str]) -> None:
    """Write the page with findings, table and learning curves."""
    from scripts.report.page import write_page

    charts = [chart for name in NAMES if (chart := curves_over_each_other(comparison.groups, name))]
    values = {"comparison": comparison, "findings": findings, "notes": notes, "charts": charts}
    write_page(path, "comparison/comparison.html", title="Comparison of runs", **values)


def differing_settings(one: Group, other: Group, figure: str = "test/accuracy") -> str:
    """Say which settings may have given two groups different images to measure a figure on."""
    keys = DATA if figure.startswith("test/") else (*DATA, "data.val_size")
    differences = [
        f"{key} is " + " and ".join(f"{group.settings.get(key, ABSENT)} in {group.name}" for group in (one, other))
        for key in keys
        if one.settings.get(key, NULL) != other.settings.get(key, NULL)
    ]
    if not differences:
        return ""
    return f"{one.name} and {other.name} may not have been tested on the same images: {'; '.join(differences)}."


def differing_files(one: Group, other: Group) -> str:
    """Say if the images of a data set have changed between the runs of two groups."""
    prints = {str(run.data_fingerprint) for group in (one, other) for run in group.counted}
    contents = {each for each in prints if each.startswith(FINGERPRINT)}
    if len(contents) < 2 or any(one.settings.get(key) != other.settings.get(key) for key in ("data", "data.folder")):
        return ""
    return (
        f"The images of the data have changed between the runs of {one.name} and {other.name}: their figures are "
        "of different images."
    )
