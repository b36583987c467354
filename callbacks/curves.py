"""Loggers whose curves a resumed run continues without a duplicate or missing point."""

import csv
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger
from torch import Tensor

from core.durable_file import replace_file, replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter

TABLE, EVENTS = "metrics.csv", "events.out.tfevents.*"
SETTINGS = "events.out.tfevents.0.hparams"  # hyperparameters, which every start of a run writes again


def cut_curves(folder: Path, lengths: Mapping[str, int]) -> set[tuple[str, str]]:
    """Cut each file to its length in a checkpoint; return metric and step of points removed from `metrics.csv`."""
    for file in folder.glob(EVENTS):
        if file.name not in lengths:
            file.unlink()
        elif file.stat().st_size > lengths[file.name]:
            with file.open("rb") as opened:  # write a copy, because a link in another folder may share this file
                replace_file(file, opened.read(lengths[file.name]))
    table, count = folder / TABLE, lengths.get(TABLE, 0)
    removed = {(name, row["step"]) for row in islice(_rows(table), count, None) for name, value in row.items() if value}
    names = {name for row in islice(_rows(table), count) for name, value in row.items() if value}
    if names:
        _write(table, sorted(names), islice(_rows(table), count))
    else:
        table.unlink(missing_ok=True)
    return removed


class FileLogger(Logger):
    """Writes curves into a folder; prints a warning instead of ending the run if the disk is full."""

    name, version = "", ""  # Lightning joins them to the folder's path

    def __init__(self, save_dir: Path) -> None:
        super().__init__()
        self.folder = Path(save_dir)

    @property
    def save_dir(self) -> str:
        """The folder, under the name that Lightning reads."""
        return str(self.folder)

    log_dir = save_dir

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing: `callbacks.tensorboard.hyperparameters.Hyperparameters` writes them."""

    @abstractmethod
    def lengths(self) -> dict[str, int]:
        """Write all points; return the length of each file by its name, for `cut_curves`."""


class CSVLogger(FileLogger):
    """Writes metrics to `metrics.csv`; appends to an existing file.

    Lightning's logger deletes the file at the start, and rewrites it in place when a new metric is logged.

    Args:
        save_dir: The folder of `metrics.csv`; on the command line always that of the run.
    """

    def __init__(self, save_dir: Path = Path("runs")) -> None:
        super().__init__(save_dir)
        self._table = self.folder / TABLE
        self._unwritten: list[dict[str, Any]] = []
        self._is_failing = False
        self._names = list(next(_rows(self._table), {}))
        self._count = sum(1 for _ in _rows(self._table))  # of rows; not counted again, because a long run has millions

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row."""
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self._unwritten.append(row | {"step": step})
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Append the rows; those that cannot be written are tried again next time."""
        if not self._unwritten:
            return
        try:
            self._append()
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                print(f"warning: {self._table} could not be written ({error.strerror})", file=sys.stderr)
            self._is_failing = True

    def _append(self) -> None:
        names = sorted({*self._names, *(name for row in self._unwritten for name in row)})
        if names != self._names or not self._table.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self._table, names, _rows(self._table))
            self._names = names
        size = self._table.stat().st_size
        try:
            with self._table.open("a", newline="") as file:
                csv.DictWriter(file, names).writerows(self._unwritten)
        except OSError:
            os.truncate(self._table, size)
            raise
        self._count += len(self._unwritten)
        self._unwritten = []

    def lengths(self) -> dict[str, int]:
        """Return the number of rows of the table."""
        self.save()
        return {TABLE: self._count}


class TensorBoardLogger(FileLogger):
    """Writes metrics for TensorBoard; points that do not fit on the disk are lost.

    Args:
        save_dir: The folder of the event files; on the command line always that of the run.
    """

    def __init__(self, save_dir: Path = Path("runs")) -> None:
        super().__init__(save_dir)
        self._writer: SummaryWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> "SummaryWriter":
        """TensorBoard's writer."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.save_dir, flush_secs=10)
        return self._writer

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a point to each curve."""
        for name, value in metrics.items():
            self.write(methodcaller("add_scalar", name, value, step))

    @rank_zero_only
    def log_image(self, key: str, images: "Sequence[Image]", step: int | None = None) -> None:
        """Add images."""
        for image in images:
            self.write(methodcaller("add_image", key, np.asarray(image), step, dataformats="HWC"))

    def write(self, write: "Callable[[SummaryWriter], Any]") -> None:
        """Call a function on TensorBoard's writer; print a warning on OSError."""
        try:
            write(self.experiment)
        except OSError as error:
            print(f"warning: points for TensorBoard are lost ({error.strerror})", file=sys.stderr)
            self._writer = None  # its thread has ended; the next point opens a new file

    @rank_zero_only
    def save(self) -> None:
        """Flush the points."""
        self.write(methodcaller("flush"))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file."""
        if self._writer is not None:
            self.write(methodcaller("close"))
            self._writer = None

    def lengths(self) -> dict[str, int]:
        """Return the number of bytes of each file."""
        self.save()
        return {file.name: file.stat().st_size for file in self.folder.glob(EVENTS) if file.name != SETTINGS}


def _rows(table: Path) -> Iterator[dict[str, str]]:
    """Yield one row at a time: a long run has millions."""
    if table.is_file():
        with table.open(newline="") as file:
            yield from csv.DictReader(file)


def _write(table: Path, names: list[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write the table atomically."""
    with replacing(table) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
