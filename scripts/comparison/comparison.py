"""What several runs have in common, in what they differ, and what has come of it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, product
from string import ascii_uppercase

import numpy as np

from callbacks.run.run_folder import order_of_start
from core.names import escape_name
from datamodules.packing.pack import FINGERPRINT
from scripts.comparison.runs import COSTS, Run
from scripts.report.chart import Point
from scripts.report.table import Table
from scripts.uncertainty.intervals import Interval
from scripts.uncertainty.significance import t_interval, varies

# The figures that are compared, in the order in which they are shown.
FIGURES = tuple(
    f"{split}/{name}" for split in ("test", "val", "train") for name in ("accuracy", "top5_accuracy", "loss")
)

# The settings that decide which images are tested on.
DATA = (
    "data",
    "data.folder",
    "data.classes",
    "data.limit",
    "data.test_size",
    "data.split_seed",
    "data.split_rule",
    "data.on_corrupt",
)

MODULE = re.compile(r"(?:^|(?<=[\[(= ]))(?:[a-z_]\w*\.)+(?=[A-Z]\w*(?:[(,)\]]|$))")  # where a class is, before its name

ABSENT = "-"  # stands for what is not known or not there

OFF = "null", "false", "[]", "{}", "0", "0.0"  # defaults of an argument that are not shown where another class lacks it


@dataclass(frozen=True)
class Mean:
    """A figure of several runs.

    Args:
        value: Its mean.
        interval: The 95 % t-interval of the mean, if two or more runs gave more than one figure.
        runs: How many have it.
    """

    value: float
    interval: Interval | None
    runs: int

    def shown(self) -> str:
        """The mean with what is to be added and taken away, or the figure of one run.

        Example:
            >>> Mean(0.98, Interval(0.97, 0.99), 3).shown()
            '0.9800 ± 0.0100'
        """
        half = f" ± {self.interval.high - self.value:.4f}" if self.interval else ""
        return f"{self.value:.4f}{half}"


@dataclass(frozen=True)
class Group:
    """Runs that are the same but for their seed.

    Args:
        letter: What it is called.
        runs: Its runs, each with a seed of its own.
    """

    letter: str
    runs: list[Run]

    @property
    def name(self) -> str:
        """The letter and the experiment."""
        return f"{self.letter} {escape_name(self.runs[0].experiment)}"

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """What all its runs are set to, with defaults that older ones may lack."""
        return {key: value for run in self.runs for key, value in run.settings.items()}

    def is_set(self, key: str) -> bool:
        """Whether a setting is not its argument's default."""
        return key in self.runs[0].chosen

    @cached_property
    def counted(self) -> list[Run]:
        """The runs whose figures count: those that were tested, or all if none was."""
        return [run for run in self.runs if not run.state] or self.runs

    @property
    def tested(self) -> int:
        """How many of its runs were tested."""
        return sum(not run.state for run in self.runs)

    def values(self, figure: str) -> list[float]:
        """A figure of each run that has it."""
        return [run.figures[figure] for run in self.counted if figure in run.figures]

    def mean(self, figure: str) -> Mean | None:
        """A figure's mean over the runs that have it, if any has."""
        values = self.values(figure)
        if not values:
            return None
        return Mean(float(np.mean(values)), t_interval(values) if varies(values) else None, len(values))

    def cost(self, name: str) -> float | None:
        """The mean of what `COSTS` names over the runs that have it, if any has."""
        values = [run.costs[name] for run in self.counted if name in run.costs]
        return float(np.mean(values)) if values else None

    def curve(self, figure: str, split: str) -> list[tuple[float, float, float, float]]:
        """A curve's epoch, mean, lowest and highest value, over the runs that have got as far."""
        found: dict[float, list[float]] = {}
        for run in self.counted:
            points: Iterable[Point] = run.curves.get(figure, {}).get(split, ())
            for epoch, value in points:
                found.setdefault(epoch, []).append(value)
        return [(epoch, float(np.mean(here)), min(here), max(here)) for epoch, here in sorted(found.items())]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs.

    Args:
        groups: In the order in which they were asked for; the others are compared with the first.
        notes: What is to be known of them besides, in sentences.
    """

    groups: list[Group]
    notes: list[str]

    @cached_property
    def differing(self) -> list[str]:
        """The settings that are not the same in all groups, and defaults that a group lacks, unless they are off."""
        keys = dict.fromkeys(key for group in self.groups for key in group.settings)
        values = {key: {group.settings.get(key) for group in self.groups} for key in keys}
        return [
            key
            for key, found in values.items()
            if _differs(key, self.groups) or (len(found) > 1 and found - {None, *OFF})
        ]

    def setting(self, key: str) -> list[str]:
        """A setting's value in each group; classes by their names alone, where that tells them apart."""
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
        """Settings that differ, figures and costs of each group; groups are columns unless they are more than these."""
        groups = self.groups
        parts = [
            [["runs", *(_number_of_runs(group) for group in groups)]],
            [[key, *self.setting(key)] for key in self.differing],
            [
                [figure, *(mean.shown() if (mean := group.mean(figure)) else ABSENT for group in groups)]
                for figure in self.figures
            ],
            [[name, *(_cost(name, group.cost(name)) for group in groups)] for name in COSTS],
        ]
        rows = [[escape_name(cell) for cell in row] for part in parts for row in part]
        breaks = {sum(map(len, parts[:place])) for place in range(1, len(parts))}
        table = Table(["", *(group.name for group in groups)], rows, frozenset(breaks))
        return table if len(groups) <= len(rows) else table.turned()

    def records(self) -> list[dict[str, str]]:
        """A mapping for each group, with numbers in full: the mean of each figure, and the ends of its interval."""
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
                ends = mean.interval if mean and mean.interval else ("", "")
                named = zip(("", "_low", "_high"), (mean.value if mean else "", *ends), strict=True)
                record |= {f"{figure}{end}": str(value) for end, value in named}
            costs = {name: group.cost(name) for name in COSTS}
            records.append(record | {name: "" if value is None else f"{value:.10g}" for name, value in costs.items()})
        return records


def _differs(key: str, groups: Sequence[Group]) -> bool:
    """Whether a setting is not the same in all groups. One that a group lacks is the same as its default."""
    values = {group.settings.get(key) for group in groups}
    return len(values - {None}) > 1 or (None in values and any(group.is_set(key) for group in groups))


def _number_of_runs(group: Group) -> str:
    seeds = ", ".join(str(run.seed) for run in group.runs)
    number = str(len(group.runs)) if group.tested in (0, len(group.runs)) else f"{group.tested} of {len(group.runs)}"
    return f"{number} (seed{'s' if len(group.runs) > 1 else ''} {seeds})"


def _cost(name: str, value: float | None) -> str:
    if value is None:
        return ABSENT
    if name in ("epochs", "seconds"):
        return f"{value:,.1f}".removesuffix(".0")
    return f"{value:,.0f}"


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Put runs that are the same but for their seed together."""
    together: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        together.setdefault(frozenset(run.chosen.items()), []).append(run)
    groups, notes = [], []
    for letter, members in zip(_letters(), together.values(), strict=False):
        kept: dict[object, Run] = {}
        for run in members:
            key = run.path if run.seed is None else run.seed
            kept[key] = _newer(kept[key], run) if key in kept else run
        group = Group(letter, sorted(kept.values(), key=lambda run: (run.seed is None, run.seed or 0)))
        groups.append(group)
        if len(kept) < len(members):
            notes.append(
                f"{len(members) - len(kept)} runs of {letter} repeat the seed of another, which is no repeat of the "
                "experiment; of each seed the newest counts."
            )
    notes += [f"{run.path} is {run.state}." for group in groups for run in group.runs if run.state]
    comparison = Comparison(groups, notes)
    notes += _of_the_hardware(groups)
    return comparison


def _letters() -> Iterable[str]:
    for length in count(1):
        for letters in product(ascii_uppercase, repeat=length):
            yield "".join(letters)


def _newer(one: Run, other: Run) -> Run:
    def age(run: Run) -> tuple[bool, int, int]:
        number, time = order_of_start(run.path) if run.path.is_dir() else (0, run.path.stat().st_mtime_ns)
        return not run.state, number if one.path.parent == other.path.parent else 0, time

    return max(one, other, key=age)


def _of_the_hardware(groups: Sequence[Group]) -> list[str]:
    used = {run.hardware for group in groups for run in group.counted if run.hardware}
    if len(used) < 2:
        return []
    return [f"Times are not comparable: the runs were on different hardware ({'; '.join(sorted(used))})."]


def differing_settings(one: Group, other: Group) -> str:
    """Say which settings may have let two groups be tested on different images."""
    told = [
        f"{key} is " + " and ".join(f"{group.settings.get(key, ABSENT)} in {group.letter}" for group in (one, other))
        for key in DATA
        if _differs(key, (one, other))
    ]
    if not told:
        return ""
    return f"{one.letter} and {other.letter} may not have been tested on the same images: {'; '.join(told)}."


def differing_files(one: Group, other: Group) -> str:
    """Say whether the images of the data have changed between the runs of two groups on the same data set."""
    known = (run.data_fingerprint or "" for group in (one, other) for run in group.counted)
    prints = {each for each in known if each.startswith(FINGERPRINT)}
    if len(prints) < 2 or any(one.settings.get(key) != other.settings.get(key) for key in ("data", "data.folder")):
        return ""
    return (
        f"The images of the data have changed between the runs of {one.letter} and {other.letter}: their figures are "
        "of different images."
    )
