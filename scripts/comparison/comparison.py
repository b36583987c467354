"""Group runs by their settings, and put settings, figures and costs of the groups side by side."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from callbacks.run.run_folder import order_of_start
from core.names import escape_name
from core.near_names import near_names
from core.user_error import UserError
from datamodules.packing.pack import FINGERPRINT
from models.training.monitor import Mode, direction
from scripts.comparison.runs import COSTS, Run
from scripts.comparison.runs import FIGURES as NAMES
from scripts.report.differences import ABSENT, names_by_difference
from scripts.report.table import Bold, Table
from scripts.uncertainty.mean import INTERVAL, RULES, Mean, by_fold, caption, mean_of_runs

# The figures that are compared, in the order in which they are shown.
FIGURES = tuple(f"{split}/{name}" for split in ("test", "val", "train") for name in NAMES)

# The settings that decide which images are tested on.
DATA = (
    *("data", "data.folder", "data.classes", "data.limit", "data.test_size"),
    *("data.split_seed", "data.split_rule", "data.on_corrupt", "data.folds", "data.fold"),
)

MODULE = re.compile(r"(?:^|(?<=[\[(= ]))(?:[a-z_]\w*\.)+(?=[A-Z]\w*(?:[(,)\]]|$))")  # a class's module, before its name

LONGEST_NAME = 30  # letters of a group's name; if one were longer, all are numbered
MOST_COLUMNS = 8  # groups of a table in which each has a column
OFF = "null", "false", "[]", "{}", "0", "0.0"  # a default that another class lacks is not shown if it is one of these


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed and their fold alone."""

    name: str
    runs: list[Run]

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """The settings of its runs, with defaults that older runs may lack."""
        return {key: value for run in self.runs for key, value in run.settings.items()}

    @cached_property
    def counted(self) -> list[Run]:
        """The runs whose figures count: the tested ones, or all if none was tested."""
        return [run for run in self.runs if not run.state] or self.runs

    @property
    def tested(self) -> int:
        """How many of its runs were tested."""
        return sum(not run.state for run in self.runs)

    @cached_property
    def folds(self) -> int:
        """How many folds the images are divided into; 0 if its runs are not of folds."""
        there = max((run.fold + 1 for run in self.runs if run.fold is not None), default=0)
        number = self.settings.get("data.folds", "")
        return int(number) if there and number.isdecimal() else there

    def measured(self, name: str) -> list[tuple[int | None, float]]:
        """A figure, or a cost, of each run that has it, with the run's fold."""
        numbers = [(run.fold, run.figures | run.costs) for run in self.counted]
        return [(fold, of_run[name]) for fold, of_run in numbers if name in of_run]

    def values(self, name: str) -> list[float]:
        """The same without folds."""
        return [value for _, value in self.measured(name)]

    def of_folds(self, name: str) -> dict[int, float]:
        """The figure of each fold: its mean over seeds, which share the fold's images."""
        return by_fold(self.measured(name))

    def mean(self, name: str) -> Mean | None:
        """The mean of a figure or a cost over the folds, or without folds over the runs, that have it."""
        measured = self.measured(name)
        return mean_of_runs(measured, self.folds) if measured else None

    def direction(self, figure: str) -> Mode | None:
        """Whether lower or higher is better, as the monitor's mode or the figure's name says; None if neither does."""
        monitor, mode = (self.settings.get(f"checkpoint.{key}", "null") for key in ("monitor", "mode"))
        is_monitor = mode != "null" and monitor.rpartition("/")[2] == figure.rpartition("/")[2]
        with suppress(UserError):
            return direction(figure, mode if is_monitor else None, figure)
        return None

    def curve(self, figure: str, split: str) -> list[tuple[float, ...]]:
        """A curve's epoch, mean and, where runs differ, lowest and highest value, over the runs that got as far."""
        values: dict[float, list[float]] = {}
        for run in self.counted:
            for epoch, value in run.curves.get(figure, {}).get(split, ()):
                values.setdefault(epoch, []).append(value)
        varied = any(min(here) < max(here) for here in values.values())
        return [
            (epoch, float(np.mean(here)), *((min(here), max(here)) if varied else ()))
            for epoch, here in sorted(values.items())
        ]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs in the order in which they were named; the first is the reference."""

    groups: list[Group]
    notes: list[str]  # sentences about runs that do not count or are hard to compare
    told: frozenset[str] = frozenset()  # the settings that the groups' names tell; none if these are numbers
    asked: tuple[str, ...] = ()  # the figures and costs of the table, if not the usual
    percent: bool = False  # True if shares are written in percent
    standing: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)  # of figures and groups, as in `best`
    bold: str = ""  # what bold stands for

    @cached_property
    def differing(self) -> list[str]:
        """The settings that are not the same in all groups, and defaults that a group lacks, unless they are off."""
        differing = []
        for key in dict.fromkeys(key for group in self.groups for key in group.settings):
            values = {group.settings.get(key) for group in self.groups}
            if _differs(key, self.groups) or (len(values) > 1 and values - {None, *OFF}):
                differing.append(key)
        return differing

    def setting(self, key: str) -> list[str]:
        """A setting's value in each group; classes without their modules, unless these are the difference."""
        values = [group.settings.get(key) for group in self.groups]
        short = [value if value is None else MODULE.sub("", value) for value in values]
        shown = short if len(set(short)) == len(set(values)) else values
        return [ABSENT if value is None else escape_name(value) for value in shown]

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
        cells = {group.name: _shown(figure, group.mean(figure), scale) for group in self.groups}
        bold = self.standing.get(figure, {})
        return [name, *(Bold(cell) if bold.get(group) else cell for group, cell in cells.items())]

    @cached_property
    def table(self) -> Table:
        """Settings that differ, figures and costs; each group is a column, or a row if there are many groups.

        Figures that were asked for are columns by themselves, with the settings if the groups are only numbered.
        """
        turned = bool(self.asked) or len(self.groups) > MOST_COLUMNS
        hidden = self.differing if self.asked and self.told else self.told if turned else ()
        settings = [[key, *self.setting(key)] for key in self.differing if key not in hidden]
        figures = [self._row(name) for name in self.figures]
        runs, costs = [["runs", *map(_number_of_runs, self.groups)]], [self._row(name) for name in COSTS]
        parts = [settings, figures] if self.asked else [runs, settings, figures, costs]
        breaks = {sum(map(len, parts[:place])) for place in range(1, len(parts))}
        means = [group.mean(name) for name in self.figures if name not in COSTS for group in self.groups]
        said = f"{caption([mean for mean in means if mean])} {self.bold}".strip()
        rows = [row for part in parts for row in part]
        table = Table(["", *(group.name for group in self.groups)], rows, frozenset(breaks), said)
        return table.turned() if turned else table

    def records(self) -> list[dict[str, str]]:
        """A mapping for each group, with numbers in full: the mean of each figure and the ends of its interval."""
        records = []
        for group in self.groups:
            record = {
                "group": group.name,
                "experiment": escape_name(group.runs[0].experiment),
                "runs": str(len(group.runs)),
                "tested": str(group.tested),
                "seeds": " ".join(str(run.seed) for run in group.runs),
                "folds": " ".join(str(run.fold) for run in group.runs if run.fold is not None),
                **{key: escape_name(group.settings.get(key, "")) for key in self.differing},
            }
            over = "fold" if group.folds else "seed"
            record["interval"] = f"{INTERVAL} of the mean over {over}s{RULES[over]}"
            for figure in [name for name in self.figures if name not in COSTS]:
                mean, (name, scale) = group.mean(figure), self.unit(figure)
                low, high = mean.interval if mean and mean.interval else ("", "")
                record[name] = str(scale * mean.value) if mean else ""
                record |= {
                    f"{name}_{end}": str(value and scale * value) for end, value in (("low", low), ("high", high))
                }
                record[f"{name}_bold"] = str(self.standing.get(figure, {}).get(group.name, ""))
            costs = {name: group.mean(name) for name in COSTS}
            records.append(record | {name: f"{cost.value:.10g}" if cost else "" for name, cost in costs.items()})
        return records

    def as_csv(self) -> str:
        """The records as a CSV file."""
        records = self.records()
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()


def _differs(key: str, groups: Sequence[Group]) -> bool:
    """True if a setting is not the same in all groups; a missing setting is the same as its default."""
    values = {group.settings.get(key) for group in groups}
    return len(values - {None}) > 1 or (None in values and any(key in group.runs[0].chosen for group in groups))


def _number_of_runs(group: Group) -> str:
    number = str(len(group.runs)) if group.tested in (0, len(group.runs)) else f"{group.tested} of {len(group.runs)}"
    seeds, folds = (list(dict.fromkeys(str(getattr(run, key)) for run in group.runs)) for key in ("seed", "fold"))
    told = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
    told += f"; fold{'s' if len(folds) > 1 else ''} {', '.join(folds)}" if group.folds else ""
    return f"{number} ({told})"


def _shown(name: str, mean: Mean | None, scale: int) -> str:
    if mean is None:
        return ABSENT
    if name not in COSTS:
        return mean.shown(scale)
    return f"{mean.value:,.1f}".removesuffix(".0") if name in ("epochs", "seconds") else f"{mean.value:,.0f}"


def compare_runs(runs: Sequence[Run], asked: Sequence[str] = (), percent: bool = False) -> Comparison:
    """Group runs that differ in their seed and fold alone; of each seed, in each fold, the newest run counts."""
    known = sorted({name for run in runs for name in (*run.figures, *run.costs)})
    for name in asked:
        if name not in known:
            raise UserError(f"No run has the figure {escape_name(name)}; {near_names(name, known)}")
    together: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        together.setdefault(frozenset(run.chosen.items()), []).append(run)
    named, told = _named(list(together.values()))
    groups, notes = [], []
    for name, members in zip(named, together.values(), strict=True):
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
    return Comparison(groups, notes, told, tuple(dict.fromkeys(asked)), percent)


def _named(groups: Sequence[list[Run]]) -> tuple[list[str], frozenset[str]]:
    """Names for groups of runs and the settings that these tell; numbers, which tell none, if names would be long."""
    unnamed = Comparison([Group("", members) for members in groups], [])
    experiments = [escape_name(members[0].experiment) for members in groups]
    if len(groups) == 1:
        return experiments, frozenset()
    names, told = names_by_difference({"": experiments} | {key: unnamed.setting(key) for key in unnamed.differing})
    if len(set(names)) == len(names) == len(groups) and max(map(len, names)) <= LONGEST_NAME:
        return names, frozenset(told)
    some = [f" {name}" for name in experiments] if len(set(experiments)) > 1 else [""] * len(groups)
    return [f"#{number}{name}" for number, name in enumerate(some, start=1)], frozenset()


def _newer(one: Run, other: Run) -> Run:
    def age(run: Run) -> tuple[bool, int, int]:
        number, time = order_of_start(run.path) if run.path.is_dir() else (0, run.path.stat().st_mtime_ns)
        return not run.state, number if one.path.parent == other.path.parent else 0, time

    return max(one, other, key=age)


def differing_settings(one: Group, other: Group, figure: str = "test/accuracy") -> str:
    """Say which settings may have given two groups different images to measure a figure on."""
    keys = DATA if figure.startswith("test/") else (*DATA, "data.val_size")
    differences = [
        f"{key} is " + " and ".join(f"{group.settings.get(key, ABSENT)} in {group.name}" for group in (one, other))
        for key in keys
        if _differs(key, (one, other))
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
