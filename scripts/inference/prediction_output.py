"""Where predictions are written to: a CSV, JSON Lines or Parquet file, or the terminal."""

import csv
import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from rich.cells import cell_len

from core.command_error import CommandError
from core.durable_file import replacing
from core.names import escape_name
from core.user_error import UserError
from scripts.command.standard_streams import check_standard_output, output_failure
from scripts.inference.prediction_table import Column, Row, texts_of

ENDINGS = (".csv", ".jsonl", ".ndjson", ".parquet")

BASE = ["path", "probability", "error"]  # the columns that tell one prediction from another

ROW_GROUP_CELLS = 2**20  # cells of a Parquet file that are in memory at a time

Identity = dict[str, Any]  # plain data that decide the rows of a prediction


class OutputError(CommandError):
    """The output can no longer be written."""


class PredictionFile:
    """Takes rows, batch by batch, and writes the file when all of them are there.

    Until then they are JSON Lines in a file beside it, whose first line is the identity of the prediction; at each
    moment all its lines are whole but for the last, which a kill may have torn. One process at a time writes it.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[Column],
        identity: Identity,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        if path.suffix.lower() not in ENDINGS:
            raise UserError(f"--output is {path}, whose ending is none of {', '.join(ENDINGS)}; choose one of these.")
        self.path = path
        self.columns = columns
        self.part = part_of(path)
        for file in (path, self.part):
            if file.exists() and not (resume or overwrite):
                raise UserError(
                    f"{file} is there already; go on with it (--resume), replace it (--overwrite) or choose another "
                    "file."
                )
        if path.is_dir():
            raise UserError(f"{path} cannot be written: Is a directory; choose another file with --output.")
        self._file = _open_alone(self.part, path)
        self._size = 0  # bytes of whole lines
        header = json.dumps(identity).encode() + b"\n"
        try:
            self.kept, self.failed = self._read(header) if resume else (0, 0)
            """The rows of a prediction that was stopped, and how many of them have an error."""
            if not self._size:
                self._write(header)
        except BaseException:
            self.close()
            raise

    def _read(self, header: bytes) -> tuple[int, int]:
        kept = failed = 0
        for number, line in enumerate(self._file):
            if number == 0 and line != header and not header.startswith(line):
                raise refusal(self.path)
            if not line.endswith(b"\n"):
                break
            if number:
                try:
                    failed += json.loads(line)["error"] is not None
                except (ValueError, KeyError, TypeError):
                    raise refusal(self.path) from None
                kept += 1
            self._size += len(line)
        return kept, failed

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        self._write("".join(f"{line}\n" for line in lines).encode())

    def _write(self, lines: bytes) -> None:
        rest = memoryview(lines)
        self._cut_off()
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._cut_off()
            raise OutputError(
                f"{self.part} could not be written ({error.strerror or error}); the rows in it are whole: free space "
                "and go on with --resume."
            ) from error
        self._size += len(lines)

    def _cut_off(self) -> None:
        """Leave nothing behind the last whole line."""
        with suppress(OSError):  # a device has no end to cut off
            self._file.truncate(self._size)
            self._file.seek(self._size)

    def finish(self) -> None:
        """Make the file of the rows."""
        self._cut_off()
        try:
            with replacing(self.path) as target, self.part.open(encoding="utf-8") as lines:
                next(lines)  # the identity
                _convert(map(json.loads, lines), self.columns, self.path.suffix.lower(), target)
        except OSError as error:
            raise OutputError(
                f"{self.path} could not be written ({error.strerror or error}); all rows are in {self.part}: free "
                "space and go on with --resume."
            ) from error
        self.part.unlink()

    def close(self) -> None:
        """Let others write the file."""
        self._file.close()


def part_of(path: Path) -> Path:
    """The file of the rows of a prediction that is not finished."""
    return path.with_name(f"{path.name}.part")


def refusal(path: Path) -> UserError:
    """The error if a file holds another prediction."""
    return UserError(
        f"{path} cannot be gone on with: its rows are not what this command would have written; give the checkpoint, "
        "images and options that it was begun with, or replace it with --overwrite."
    )


def _open_alone(part: Path, path: Path) -> BinaryIO:
    """Open a file for this process alone, where the file system can."""
    try:
        file = part.open("r+b" if part.exists() else "xb+", buffering=0)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another file with --output.") from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # worker processes do not inherit it, unlike flock's
    except (BlockingIOError, PermissionError):
        file.close()
        raise UserError(f"Another process is writing {path}; wait for its end, or stop it.") from None
    except OSError:
        pass
    return file


def _convert(rows: Iterator[Row], columns: Sequence[Column], ending: str, target: Path) -> None:
    if ending == ".parquet":
        _write_parquet(rows, columns, target)
        return
    with target.open("w", newline="", encoding="utf-8") as file:
        if ending == ".csv":
            writer = csv.writer(file)
            writer.writerow([column.name for column in columns])
            writer.writerows(texts_of(row, columns) for row in rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(rows: Iterator[Row], columns: Sequence[Column], target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"text": pa.string(), "probability": pa.float64(), "logit": pa.float32()}
    schema = pa.schema([(column.name, types[column.kind]) for column in columns])
    rows_at_a_time = max(1, ROW_GROUP_CELLS // len(columns))
    with pq.ParquetWriter(target, schema) as writer:
        while some := list(islice(rows, rows_at_a_time)):
            writer.write_table(pa.Table.from_pylist(some, schema))


def finished_rows(path: Path, columns: Sequence[Column]) -> list[Row]:
    """The cells in `BASE` of each row that `PredictionFile` has written; ValueError if the file has other columns."""
    names = [column.name for column in columns]
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            if file.schema_arrow.names != names:
                raise ValueError("it has other columns")
            rows: list[Row] = file.read(BASE).to_pylist()
            return rows
    found = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file) if path.suffix.lower() == ".csv" else map(json.loads, file):
            if not isinstance(row, dict) or list(row) != names:
                raise ValueError("it has other columns")
            found.append({name: row[name] for name in BASE})
    return found


class Terminal:
    """Prints aligned columns, as wide as all the paths that will come and all names of classes need."""

    def __init__(self, columns: Sequence[Column], paths: Sequence[str], class_names: Sequence[str]) -> None:
        self._columns = [column for column in columns if column.name != "error"]
        longest = max(cell_len(escape_name(name)) for name in class_names)
        self._widths = [
            max(cell_len(column.name), longest if column.kind == "text" else len("0.000000"))
            for column in self._columns
        ]
        self._widths[0] = max(cell_len(escape_name(path)) for path in paths)
        self._print([self._line([column.name for column in self._columns])])

    def append(self, rows: Sequence[Row]) -> None:
        """Print rows; one without a prediction has its error in place of it."""
        self._print(
            [
                self._line(
                    [str(row["path"]), f"error: {row['error']}"] if row["error"] else texts_of(row, self._columns)
                )
                for row in rows
            ]
        )

    def _line(self, cells: Sequence[str]) -> str:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, self._widths, strict=False))
        return "  ".join(padded).rstrip()

    def _print(self, lines: Sequence[str]) -> None:
        print(*lines, sep="\n")
        check_standard_output()
        if output_failure():
            raise BrokenPipeError  # the reader has read enough
