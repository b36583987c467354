"""Read tables from CSV, TSV and Parquet files with every cell as text, so that `007` keeps its zeros."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv
from pyarrow.parquet import ParquetFile

from core.user_error import UserError

# Whole and decimal numbers, with an exponent if any.
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


class Table:
    """A table file whose columns are read with checks; a wrong cell raises UserError with its column and rows."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._table = read_table(file)
        self.names: list[str] = self._table.column_names

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def check(self, column: str, is_wrong: Any, remedy: str) -> None:
        """Raise UserError if any row of a column is wrong, bool `[N]`."""
        if len(rows := np.flatnonzero(is_wrong)):
            value = self._table[column][int(rows[0])].as_py() or "nothing"
            raise UserError(f"{self.file} has {value} in the column {column}, in {rows_of(rows)}: {remedy}.")

    def cells(self, column: str) -> pa.Array:
        """Return the texts of a column, which may be empty."""
        return self._table[column].combine_chunks()

    def texts(self, column: str) -> pa.Array:
        """Return the texts of a column; raise UserError if one is empty."""
        cells = self.cells(column)
        self.check(column, pc.equal(cells, ""), "give one in every row, or remove the row")
        return cells

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return the numbers in a column, float64 `[N]`."""
        texts = self.texts(column)
        self.check(column, pc.invert(pc.match_substring_regex(texts, NUMBER)), "give a number")
        return np.asarray(pc.cast(texts, pa.float64()))

    def zeros_and_ones(self, column: str) -> NDArray[np.uint8]:
        """Return a column of 0 and 1, or false and true, uint8 `[N]`."""
        texts = pc.utf8_lower(self.cells(column))
        is_one = pc.is_in(texts, pa.array(["1", "1.0", "true"]))
        is_zero = pc.is_in(texts, pa.array(["0", "0.0", "false"]))
        self.check(column, pc.invert(pc.or_(is_one, is_zero)), "write 0 or 1")
        return np.asarray(is_one).astype(np.uint8)


def read_table(path: Path) -> pa.Table:
    """Read a table as text, without spaces around a cell; a missing value is an empty text. Drop nested columns."""
    try:
        with path.open("rb") as file:
            is_parquet = path.suffix.lower() in (".parquet", ".pq")
            table = ParquetFile(file).read() if is_parquet else _read_csv(file)
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        reason = "it is not UTF-8" if "utf" in str(error).lower() else " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read as a table ({reason}); save it in UTF-8, with a comma, a semicolon or a tab "
            "between columns, and a text that has one in quotes."
        ) from error
    if not table.num_rows:
        raise UserError(f"{path} has no rows; give one for each image, below the names of the columns.")
    names = [name for name in table.column_names if not pa.types.is_nested(table.schema.field(name).type)]
    columns = [pc.fill_null(pc.cast(table[name], pa.string()), "") for name in names]
    return pa.table([pc.utf8_trim_whitespace(column) for column in columns], names)


def _read_csv(file: Any) -> pa.Table:
    header = file.readline().decode("utf-8-sig")
    unquoted = re.sub(r'"[^"]*"', "", header)
    separator = max(",;\t", key=unquoted.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise csv.Error(f"two of its columns are called {repeated[0]}")
    if not file.peek(1):  # no rows: pyarrow would raise an error of its own
        return pa.table({name: [] for name in names})
    return read_csv(
        file,
        ReadOptions(column_names=names, block_size=2**24),
        ParseOptions(delimiter=separator, newlines_in_values=True),
        ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


def encode_texts(column: pa.Array) -> tuple[NDArray[np.int64], list[str]]:
    """Return the index of each row's text, int64 `[N]`, in the list of distinct texts, and this list."""
    encoded = pc.dictionary_encode(column)
    return np.asarray(encoded.indices).astype(np.int64), encoded.dictionary.to_pylist()


def rows_of(rows: Sequence[int] | NDArray[np.int64]) -> str:
    """Name rows for a message, numbered as in a spreadsheet, where the header is row 1.

    Example:
        >>> rows_of([0]), rows_of([0, 2, 4, 6])
        ('row 2', '4 rows (2, 4, 6, ...)')
    """
    first = ", ".join(str(row + 2) for row in rows[:3])
    if len(rows) == 1:
        return f"row {first}"
    return f"{len(rows):,} rows ({first}{', ...' if len(rows) > 3 else ''})"
