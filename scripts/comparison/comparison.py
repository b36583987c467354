"""Group runs by their settings, and put settings, figures and costs of the groups side by side."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, product
from string import ascii_uppercase
from typing import NamedTuple

import numpy as np

from callbacks.run.run_folder import order_of_start
from core.names import escape_name
from datamodules.packing.pack import FINGERPRINT
from scripts.comparison.runs import COSTS, Run
from scripts.comparison.runs import FIGURES as NAMES
from scripts.report.table import Table
from scripts.uncertainty.intervals import Interval
from scripts.uncertainty.significance import t_interval, varies

# The figures that are compared, in the order in which they are shown.
FIGURES = tuple(f"{split}/{name}" for split in ("test", "val", "train") for name in NAMES)

# The settings that decide which images are tested on.
DATA = (
    *("data", "data.folder", "data.classes", "data.limit", "data.test_size"),
    *("data.split_seed", "data.split_rule", "data.on_corrupt"),
)

MODULE = re.compile(r"(?:^|(?<=[\[(= ]))(?:[a-z_]\w*\.)+(?=[A-Z]\w*(?:[(,)\]]|$))")  # a class's module, before its name

ABSENT = "-"  # stands for an unknown value
OFF = "null", "false", "[]", "{}", "0", "0.0"  # a default that another class lacks is not shown if it is one of these


class Mean(NamedTuple):
    """A figure's mean over runs, with its 95 % t-interval if the runs gave different figures."""

    value: float
    interval: Interval | None

    def shown(self) -> str:
        """The mean with half its interval, or the figure of one run.

        Example:
            >>> Mean(0.98, Interval(0.97, 0.99)).shown()
            '0.9800 ± 0.0100'
        """
        half = f" ± {self.interval.high - self.value:.4f}" if self.interval else ""
        return f"{self.value:.4f}{half}"


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone, called by a letter."""

    letter: str
    runs: list[Run]

    @property
    def name(self) -> str:
        """The letter and the experiment."""
        return f"{self.letter} {escape_name(self.runs[0].experiment)}"

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

    def values(self, name: str) -> list[float]:
        """A figure, or a cost, of each run that has it."""
        numbers = [run.figures | run.costs for run in self.counted]
        return [of_run[name] for of_run in numbers if name in of_run]

    def mean(self, name: str) -> Mean | None:
        """The mean of a figure or a cost over the runs that have it."""
        if not (values := self.values(name)):
            return None
        return Mean(float(np.mean(values)), t_interval(values) if varies(values) else None)

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
        return [ABSENT if value is None else value for value in shown]

    @cached_property
    def figures(self) -> list[str]:
        """The figures that any group has."""
        return [figure for figure in FIGURES if any(group.mean(figure) for group in self.groups)]

    @cached_property
    def table(self) -> Table:
        """Settings that differ, figures and costs; each group is a column, or a row if there are many groups."""
        parts = [
            [["runs", *map(_number_of_runs, self.groups)]],
            [[key, *self.setting(key)] for key in self.differing],
            [[name, *(_shown(name, group.mean(name)) for group in self.groups)] for name in self.figures],
            [[name, *(_shown(name, group.mean(name)) for group in self.groups)] for name in COSTS],
        ]
        rows = [[escape_name(cell) for cell in row] for part in parts for row in part]
        breaks = {sum(map(len, parts[:place])) for place in range(1, len(parts))}
        table = Table(["", *(group.name for group in self.groups)], rows, frozenset(breaks))
        return table if len(self.groups) <= len(rows) else table.turned()

    def records(self) -> list[dict[str, str]]:
        """A mapping for each group, with numbers in full: the mean of each figure and the ends of its interval."""
        records = []
        for group in self.groups:
            record = {
                "group": group.letter,
                "experiment": escape_name(group.runs[0].experiment),
                "runs": str(len(group.runs)),
                "tested": str(group.tested),
                "seeds": " ".join(str(run.seed) for run in group.runs),
                **{key: escape_name(group.settings.get(key, "")) for key in self.differing},
            }
            for figure in self.figures:
                mean = group.mean(figure)
                low, high = mean.interval if mean and mean.interval else ("", "")
                record[figure] = str(mean.value) if mean else ""
                record |= {f"{figure}_low": str(low), f"{figure}_high": str(high)}
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
    seeds = ", ".join(str(run.seed) for run in group.runs)
    number = str(len(group.runs)) if group.tested in (0, len(group.runs)) else f"{group.tested} of {len(group.runs)}"
    return f"{number} (seed{'s' if len(group.runs) > 1 else ''} {seeds})"


def _shown(name: str, mean: Mean | None) -> str:
    if mean is None:
        return ABSENT
    if name not in COSTS:
        return mean.shown()
    return f"{mean.value:,.1f}".removesuffix(".0") if name in ("epochs", "seconds") else f"{mean.value:,.0f}"


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Group runs that differ in their seed alone; of each seed the newest run counts."""
    together: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        together.setdefault(frozenset(run.chosen.items()), []).append(run)
    groups, notes = [], []
    for letter, members in zip(_letters(), together.values(), strict=False):
        newest: dict[object, Run] = {}
        for run in members:
            key = run.path if run.seed is None else run.seed
            newest[key] = _newer(newest[key], run) if key in newest else run
        groups.append(Group(letter, sorted(newest.values(), key=lambda run: (run.seed is None, run.seed or 0))))
        if repeated := len(members) - len(newest):
            notes.append(
                f"{repeated} runs of {letter} repeat the seed of another; only the newest run of each seed counts."
            )
    notes += [f"{run.path} is {run.state}." for group in groups for run in group.runs if run.state]
    hardware = {run.hardware for group in groups for run in group.counted if run.hardware}
    if len(hardware) > 1:
        notes.append(f"Times are not comparable: the hardware of the runs differs ({'; '.join(sorted(hardware))}).")
    return Comparison(groups, notes)


def _letters() -> Iterator[str]:
    for length in count(1):
        for letters in product(ascii_uppercase, repeat=length):
            yield "".join(letters)


def _newer(one: Run, other: Run) -> Run:
    def age(run: Run) -> tuple[bool, int, int]:
        number, time = order_of_start(run.path) if run.path.is_dir() else (0, run.path.stat().st_mtime_ns)
        return not run.state, number if one.path.parent == other.path.parent else 0, time

    return max(one, other, key=age)


def differing_settings(one: Group, other: Group) -> str:
    """Say which settings may have given two groups different test images."""
    differences = [
        f"{key} is " + " and ".join(f"{group.settings.get(key, ABSENT)} in {group.letter}" for group in (one, other))
        for key in DATA
        if _differs(key, (one, other))
    ]
    if not differences:
        return ""
    return f"{one.letter} and {other.letter} may not have been tested on the same images: {'; '.join(differences)}."


def differing_files(one: Group, other: Group) -> str:
    """Say if the images of a data set have changed between the runs of two groups."""
    prints = {str(run.data_fingerprint) for group in (one, other) for run in group.counted}
    contents = {each for each in prints if each.startswith(FINGERPRINT)}
    if len(contents) < 2 or any(one.settings.get(key) != other.settings.get(key) for key in ("data", "data.folder")):
        return ""
    return (
        f"The images of the data have changed between the runs of {one.letter} and {other.letter}: their figures are "
        "of different images."
    )
