"""Where predictions are written to as they come: a CSV, JSON Lines or Parquet file, or the terminal.

A file is whole at every moment but for a last line that a killed process may have torn, and can be gone on with.
"""

import csv
import fcntl
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from rich.cells import cell_len

from core.names import distinct_names, escape_name
from core.user_error import UserError
from scripts.command.standard_streams import output_failure, refuse_lost_output

ROW_GROUP_CELLS = 2**20  # cells of a Parquet file that are in memory at a time

Kind = Literal["text", "probability", "logit"]

ARROW_TYPES = {"text": pa.string(), "probability": pa.float64(), "logit": pa.float32()}

Value = str | float | None

Row = list[Value]  # A value for each column; None where there is no prediction, or no error


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        name: Its heading, the same in every format.
        kind: `text`, `probability` (to six decimal places in text) or `logit` (float32).
    """

    name: str
    kind: Kind = "text"


# What every output begins with.
BASE = (Column("path"), Column("prediction"), Column("probability", "probability"), Column("error"))

PATH, PREDICTION, PROBABILITY, ERROR = range(len(BASE))  # their places in a row


def columns_for(
    class_names: Sequence[str], top: int = 0, *, probabilities: bool = False, logits: bool = False
) -> list[Column]:
    """The columns of an output.

    Args:
        class_names: `K` names.
        top: How many of the most probable classes to name, with their probabilities.
        probabilities: Whether to give the probability of each class.
        logits: Whether to give its logit.
    """
    names = distinct_names(class_names)
    columns = [*BASE]
    for number in range(1, top + 1):
        columns += [Column(f"class {number}"), Column(f"probability {number}", "probability")]
    if probabilities:
        columns += [Column(f"probability of {name}", "probability") for name in names]
    if logits:
        columns += [Column(f"logit of {name}", "logit") for name in names]
    return columns


class OutputError(RuntimeError):
    """The output can no longer be written, for no mistake of the user's."""


class Output(ABC):
    """Takes rows, batch by batch."""

    kept: Sequence[Row] = ()
    """The rows that were there already, as far as `BASE` goes."""

    path = Path()
    """The file, if it is one."""

    def refusal(self, number: int) -> UserError:
        """What to say if a row, counted from 1, or a heading, 0, is none of this prediction."""
        where = f"its row {number} is" if number else "the names of its columns are"
        return UserError(
            f"{self.path} cannot be gone on with: {where} not what this command would have written; give the "
            "checkpoint, images and options that it was begun with, or replace it with --overwrite."
        )

    @abstractmethod
    def append(self, rows: Sequence[Row]) -> None:
        """Add rows."""

    def finish(self) -> None:  # noqa: B027 - where nothing is left to do
        """All rows are there."""

    def close(self) -> None:  # noqa: B027 - where nothing is held
        """Let go of it, finished or not."""


class Terminal(Output):
    """Aligned columns on standard output.

    Args:
        columns: The columns.
        paths: All the paths that will come, for their width.
        class_names: All names of classes, likewise.
    """

    def __init__(self, columns: Sequence[Column], paths: Sequence[str], class_names: Sequence[str]) -> None:
        self._columns = columns
        longest = max(cell_len(escape_name(name)) for name in class_names)
        self._widths = [
            max(cell_len(column.name), longest if column.kind == "text" else len("0.000000")) for column in columns
        ]
        self._widths[PATH] = max(cell_len(escape_name(path)) for path in paths)
        self._print([self._line([column.name for column in columns])])

    def append(self, rows: Sequence[Row]) -> None:
        """Print rows; what gives no image has its error in place of a prediction."""
        lines = []
        for row in rows:
            cells = _texts(row, self._columns)
            failed = [cells[PATH], f"error: {cells[ERROR]}"]
            lines.append(self._line(failed if row[ERROR] else cells))
        self._print(lines)

    def _line(self, cells: Sequence[str]) -> str:
        shown = [place for place in range(len(cells)) if place != ERROR]
        padded = (cells[place] + " " * (self._widths[place] - cell_len(cells[place])) for place in shown)
        return "  ".join(padded).rstrip()

    def _print(self, lines: Sequence[str]) -> None:
        print(*lines, sep="\n")
        refuse_lost_output()
        if output_failure():
            raise BrokenPipeError  # whoever reads has read enough


class LinesFile(Output):
    """A file of one line for each row.

    Args:
        path: The file.
        columns: The columns.
        resume: Whether to keep the rows that are in it and whole; else they are replaced.

    Raises:
        UserError: If it cannot be written, another process is writing it, or what is in it are not such
            rows.
    """

    opening = ""
    """What the first line begins with."""

    def __init__(self, path: Path, columns: Sequence[Column], *, resume: bool) -> None:
        self.path = path
        self.columns = columns
        self._whole = 0  # bytes
        try:
            self._file = path.open("r+b" if path.exists() else "xb", buffering=0)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror}; choose another file with --output."
            ) from error
        try:
            _hold(self._file.fileno(), path)
            if resume:
                self.kept = self._read()
            if not self._whole:
                self._write(self.heading())
        except BaseException:
            self.close()
            raise

    def _read(self) -> list[Row]:
        rows: list[Row] = []
        heading = self.heading().encode()
        opening = heading or self.opening.encode()
        reader = io.BufferedReader(self._file)  # a file of its own would take the lock with it when it is closed
        for number, line in enumerate(reader):
            if number == 0 and not (line.startswith(opening) or opening.startswith(line)):
                raise self.refusal(0 if heading else 1)
            if not line.endswith(b"\n"):
                break
            if number or not heading:
                rows.append(self._parsed(line, len(rows) + 1))
            self._whole += len(line)
        reader.detach()
        return rows

    def _parsed(self, line: bytes, number: int) -> Row:
        try:
            row = self.parse(line.decode())
        except (ValueError, csv.Error):
            row = None
        if row is None:
            raise self.refusal(number)
        return row[: len(BASE)]

    @abstractmethod
    def heading(self) -> str:
        """The first line, or nothing if there is none."""

    @abstractmethod
    def line(self, row: Row) -> str:
        """A row as text, its end included."""

    @abstractmethod
    def parse(self, line: str) -> Row | None:
        """The row that the text of a line says, or None if it says none."""

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows."""
        self._write("".join(map(self.line, rows)))

    def _write(self, text: str) -> None:
        self._cut_off()
        rest = memoryview(text.encode())
        size = self._whole + len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._cut_off()
            raise OutputError(
                f"{self.path} could not be written ({error.strerror or error}); the rows in it are whole: free space "
                "and go on with --resume."
            ) from error
        self._whole = size

    def _cut_off(self) -> None:
        """Leave nothing behind the last whole row."""
        with suppress(OSError):  # what is no file, such as /dev/full, has no end to cut off
            self._file.truncate(self._whole)
            self._file.seek(self._whole)

    def finish(self) -> None:
        """Leave whole rows alone."""
        self._cut_off()

    def close(self) -> None:
        """Let others write the file."""
        self._file.close()


class CsvFile(LinesFile):
    """Comma-separated values, with a heading."""

    def heading(self) -> str:
        """The names of the columns."""
        return _csv_line([column.name for column in self.columns])

    def line(self, row: Row) -> str:
        """A row."""
        return _csv_line(_texts(row, self.columns))

    def parse(self, line: str) -> Row | None:
        """Read a row."""
        (cells,) = csv.reader([line], strict=True)
        if len(cells) != len(self.columns):
            return None
        return [
            (cell if column.kind == "text" else float(cell)) if cell else None
            for cell, column in zip(cells, self.columns, strict=True)
        ]


class JsonLinesFile(LinesFile):
    """An object for each row (jsonlines.org)."""

    opening = '{"path": "'

    def heading(self) -> str:
        """There is none."""
        return ""

    def line(self, row: Row) -> str:
        """A row."""
        values = {column.name: value for column, value in zip(self.columns, row, strict=True)}
        return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"

    def parse(self, line: str) -> Row | None:
        """Read a row."""
        values = json.loads(line)
        if not isinstance(values, dict) or list(values) != [column.name for column in self.columns]:
            return None
        return list(values.values())


class ParquetFile(JsonLinesFile):
    """A Parquet file, which appears, whole, when all rows are there: without its end it could not be read.

    Until then the rows are JSON Lines in a file beside it.

    Args:
        path: The file.
        columns: The columns.
        resume: Whether to keep the rows that lie beside it.
    """

    def __init__(self, path: Path, columns: Sequence[Column], *, resume: bool) -> None:
        self.target = path
        super().__init__(rows_beside(path), columns, resume=resume)

    def finish(self) -> None:
        """Make the file of the rows."""
        self._cut_off()
        part = self.target.with_name(f".{self.target.name}.part")
        schema = pa.schema([(column.name, ARROW_TYPES[column.kind]) for column in self.columns])
        rows_at_a_time = max(1, ROW_GROUP_CELLS // len(self.columns))
        try:
            with self.path.open(encoding="utf-8") as lines, pq.ParquetWriter(part, schema) as writer:
                while rows := [json.loads(line) for line in islice(lines, rows_at_a_time)]:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
            part.replace(self.target)
        except OSError as error:
            raise OutputError(
                f"{self.target} could not be written ({error.strerror or error}); all rows are in {self.path}: free "
                "space and go on with --resume."
            ) from error
        finally:
            part.unlink(missing_ok=True)
        self.path.unlink()


class FinishedParquetFile(Output):
    """A Parquet file that is whole, asked for again.

    Args:
        path: The file.
        columns: The columns.

    Raises:
        UserError: If it is no such file.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self.path = path
        try:
            with pq.ParquetFile(path) as file:
                if file.schema_arrow.names != [column.name for column in columns]:
                    raise self.refusal(0)
                found = file.read([column.name for column in BASE]).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"{path} cannot be gone on with: it is no Parquet file; replace it with --overwrite."
            ) from error
        self.kept = [list(row.values()) for row in found]

    def append(self, rows: Sequence[Row]) -> None:
        """There is no room."""
        raise self.refusal(len(self.kept) + 1)


# The kind of file by the ending of its name, in lower case.
FILES: dict[str, type[LinesFile]] = {
    ".csv": CsvFile,
    ".jsonl": JsonLinesFile,
    ".ndjson": JsonLinesFile,
    ".parquet": ParquetFile,
}


def output_file(path: Path, columns: Sequence[Column], *, resume: bool = False, overwrite: bool = False) -> Output:
    """Open a file for predictions; its ending says its kind."""
    kind = FILES.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"--output is {path}, whose ending is none of {', '.join(FILES)}; choose one of these.")
    for file in (path, rows_beside(path)) if kind is ParquetFile else (path,):
        if file.exists() and not (resume or overwrite):
            raise UserError(
                f"{file} is there already; go on with it (--resume), replace it (--overwrite) or choose another file."
            )
    if kind is ParquetFile and resume and path.exists() and not rows_beside(path).exists():
        return FinishedParquetFile(path, columns)
    return kind(path, columns, resume=resume)


def rows_beside(path: Path) -> Path:
    """Where the rows of a Parquet file lie until it is written."""
    return path.with_name(f"{path.name}.part")


def _hold(file: int, path: Path) -> None:
    """Keep a file for this process alone, where the file system can."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which worker processes, unlike flock's, do not inherit
    except (BlockingIOError, PermissionError):
        raise UserError(f"Another process is writing {path}; wait for its end, or stop it.") from None
    except OSError:
        pass


def _texts(row: Row, columns: Sequence[Column]) -> list[str]:
    return [
        "" if value is None else f"{value:.6f}" if column.kind == "probability" else str(value)
        for value, column in zip(row, columns, strict=True)
    ]


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
