"""Curves that a resumed run goes on with, without a double or a missing point."""

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from torch.utils.tensorboard import SummaryWriter

from callbacks.run.outside_steps import OutsideSteps
from core.durable_file import replace_file, replacing

TABLE, EVENTS = ExperimentWriter.NAME_METRICS_FILE, "events.out.tfevents.*"

# The events file of this start of the run alone, which is written anew when the run is taken up.
SETTINGS = "events.out.tfevents.0.hparams"


class Curves(OutsideSteps):
    """Notes in every checkpoint how far the run's curves had been written, as `curves`.

    Of TensorBoard's files in bytes, of `metrics.csv` in rows; `cut_curves` takes them back to there.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write out what is waiting, and note how much there is."""
        if not trainer.is_global_zero:
            return
        places = checkpoint["curves"] = {}
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()
                places[TABLE] = logger.experiment.rows
            elif isinstance(logger, TensorBoardLogger):
                logger.save()
                files = Path(logger.log_dir).glob(EVENTS)
                places |= {file.name: file.stat().st_size for file in files if file.name != SETTINGS}


def cut_curves(folder: Path, places: Mapping[str, int]) -> None:
    """Take back what was written after a checkpoint."""
    for file in folder.glob(EVENTS):
        if file.name not in places:
            file.unlink()
        elif file.stat().st_size > places[file.name]:
            with file.open("rb") as opened:  # a copy, for another folder may hold the same file by a link
                replace_file(file, opened.read(places[file.name]))
    table = folder / TABLE
    count = places.get(TABLE, 0)
    if names := {name for row in islice(_rows(table), count) for name, value in row.items() if value}:
        _write(table, sorted(names), islice(_rows(table), count))
    else:
        table.unlink(missing_ok=True)


class CSVLogger(lightning.pytorch.loggers.CSVLogger):
    """Lightning's, which goes on with a file that is there, and never ends a run.

    Lightning deletes the file at the start, and writes it anew in place when a figure is logged for the first time.

    Args:
        save_dir: The folder of `metrics.csv`; on the command line always that of the run.
    """

    def __init__(self, save_dir: Path = Path("runs")) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """What writes the file."""
        if not isinstance(self._experiment, _TableWriter):
            self._experiment = _TableWriter(log_dir=self.log_dir)
        return self._experiment


class TensorBoardLogger(lightning.pytorch.loggers.TensorBoardLogger):
    """Lightning's, which never ends a run: without space for a point, it is left out.

    Args:
        save_dir: The folder of the event files; on the command line always that of the run.
    """

    def __init__(self, save_dir: Path = Path("runs")) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False, flush_secs=10)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to each curve."""
        try:
            super().log_metrics(metrics, step)
        except (OSError, ValueError) as error:  # Lightning takes what was raised for an unsuitable value
            self._begin_anew(error)

    def write(self, write: Callable[[SummaryWriter], None]) -> None:
        """Let something else be written."""
        try:
            write(self.experiment)
        except OSError as error:
            self._begin_anew(error)

    @rank_zero_only
    def save(self) -> None:
        """Write out what is waiting; Lightning leaves an empty `hparams.yaml` besides."""
        self.write(SummaryWriter.flush)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file."""
        if self._experiment is not None:
            self.write(SummaryWriter.close)

    def _begin_anew(self, error: Exception) -> None:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise error
        print(f"warning: points for TensorBoard are lost ({cause.strerror})", file=sys.stderr)
        self._experiment = None  # whose thread is dead; the next point is written to another file


class _TableWriter(ExperimentWriter):
    _failing = False  # which is said once, not for every row

    def _check_log_dir_exists(self) -> None:
        self.rows = 0
        """How many the file holds; counted on, so that a checkpoint of a long run need not read it."""
        if (table := Path(self.metrics_file_path)).is_file():
            with table.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])
            self.rows = sum(1 for _ in _rows(table))

    def save(self) -> None:
        if not self.metrics:
            return
        table = Path(self.metrics_file_path)
        try:
            self._append(table)
            self._failing = False
        except OSError as error:  # the rows are kept, and tried again with the next
            if not self._failing:
                print(f"warning: {table} could not be written ({error.strerror})", file=sys.stderr)
            self._failing = True

    def _append(self, table: Path) -> None:
        names = sorted({*self.metrics_keys, *(name for row in self.metrics for name in row)})
        if names != self.metrics_keys or not table.is_file():
            self.rows = _write(table, names, _rows(table))
            self.metrics_keys = names
        size = table.stat().st_size
        try:
            with table.open("a", newline="") as file:
                csv.DictWriter(file, names).writerows(self.metrics)
        except OSError:
            os.truncate(table, size)
            raise
        self.rows += len(self.metrics)
        self.metrics = []


def _rows(table: Path) -> Iterator[dict[str, str]]:
    """One at a time: a long run has millions."""
    if table.is_file():
        with table.open(newline="") as file:
            yield from csv.DictReader(file)


def _write(table: Path, names: list[str], rows: Iterable[Mapping[str, str]]) -> int:
    """Replace the file whole or not at all, and count its rows."""
    count = 0
    with replacing(table) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        for count, row in enumerate(rows, 1):  # noqa: B007  # the last is how many there are
            writer.writerow(row)
    return count
