"""Group runs that differ only in their seed and fold, and name the groups."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from callbacks.run.run_folder import order_of_start
from core.names import escape_name
from core.user_error import UserError
from models.training.monitor import Mode, direction
from scripts.comparison.runs import Run
from scripts.comparison.settings import NULL, differing_keys, names_by_difference, shown_values
from scripts.uncertainty.mean import Mean, mean_of_runs

LONGEST_NAME = 30  # characters; if the name of one group is longer, all groups are numbered


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed and fold."""

    name: str
    runs: list[Run]

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings of every run; `data.fold` is `each` if the runs have folds."""
        return self.runs[0].settings

    @cached_property
    def measured_runs(self) -> list[Run]:
        """The tested runs, or all runs if none was tested."""
        return [run for run in self.runs if not run.state] or self.runs

    @cached_property
    def folds(self) -> int:
        """The number of folds of the cross-validation; 0 if the runs have no fold."""
        least = max((run.fold + 1 for run in self.runs if run.fold is not None), default=0)
        configured = self.settings.get("data.folds", "")
        return int(configured) if least and configured.isdecimal() else least

    def values_with_folds(self, metric: str) -> list[tuple[int | None, float]]:
        """Return the fold and the value of each measured run that has the metric."""
        return [(run.fold, run.metrics[metric]) for run in self.measured_runs if metric in run.metrics]

    def values(self, metric: str) -> list[float]:
        """Return the value of each measured run that has the metric."""
        return [value for _, value in self.values_with_folds(metric)]

    def mean(self, metric: str) -> Mean | None:
        """Return the mean over folds, or over runs without folds; None if no run has the metric."""
        values = self.values_with_folds(metric)
        return mean_of_runs(values, self.folds) if values else None

    def direction(self, metric: str) -> Mode | None:
        """Return whether lower or higher is better, by the monitor's mode or the metric's name; None if unknown."""
        monitor, mode = (self.settings.get(f"checkpoint.{key}", NULL) for key in ("monitor", "mode"))
        is_monitor = mode != NULL and monitor.rpartition("/")[2] == metric.rpartition("/")[2]
        with suppress(UserError):
            return direction(metric, mode if is_monitor else None, metric)
        return None


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Group runs by their settings; keep the newest run of each seed and fold. Also return notes for the user."""
    runs_by_settings: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        settings = frozenset((key, value) for key, value in run.settings.items() if value != NULL)
        runs_by_settings.setdefault(settings, []).append(run)
    groups, notes = [], []
    for name, members in zip(_names([*runs_by_settings.values()]), runs_by_settings.values(), strict=True):
        newest: dict[object, Run] = {}
        for run in members:
            key = run.path if run.seed is None else (run.seed, run.fold)
            newest[key] = _newer(newest[key], run) if key in newest else run
        group = Group(name, sorted(newest.values(), key=lambda run: (run.fold or 0, run.seed is None, run.seed or 0)))
        groups.append(group)
        if missing := sorted({*range(group.folds)} - {run.fold for run in group.measured_runs}):
            folds = f"{', '.join(map(str, missing))} of its {group.folds} folds"
            notes.append(f"{name} lacks fold {folds}; its means are over the other folds.")
        if repeated := len(members) - len(newest):
            notes.append(
                f"{repeated} runs of {name} repeat the seed of another; only the newest run of each seed counts."
            )
    notes += [f"{run.path} is {run.state}." for group in groups for run in group.runs if run.state]
    hardware = {run.hardware for group in groups for run in group.measured_runs if run.hardware}
    if len(hardware) > 1:
        notes.append(f"Times are not comparable: the hardware of the runs differs ({'; '.join(sorted(hardware))}).")
    return groups, notes


def _names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Name each group by its experiment and the settings that distinguish it, or number groups with long names."""
    experiments = [escape_name(runs[0].experiment) for runs in groups]
    if len(groups) == 1:
        return experiments
    settings = [runs[0].settings for runs in groups]
    columns = {"": experiments} | {key: shown_values(settings, key) for key in differing_keys(settings)}
    names = names_by_difference(columns)
    if len({*names}) == len(groups) and max(map(len, names)) <= LONGEST_NAME:
        return names
    return [f"#{number} {experiment}" for number, experiment in enumerate(experiments, start=1)]


def _newer(run_1: Run, run_2: Run) -> Run:
    """Return the run that was started later; a tested run counts as newer than one that was not."""
    first = 0 if run_1.path.parent == run_2.path.parent else 1  # starts are numbered within an experiment
    return max(run_1, run_2, key=lambda run: (not run.state, order_of_start(run.path)[first:]))
