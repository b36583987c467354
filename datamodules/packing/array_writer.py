"""Write arrays row by row, and the facts that `checked_arrays` verifies them by."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from datamodules.packing.checked_arrays import FACTS, folder_hash


def write_facts(folder: Path, facts: Mapping[str, Any], large: Collection[str]) -> None:
    """Write the facts of a folder with its hash; rows of `large` arrays have checksums instead."""
    (folder / FACTS).write_text(json.dumps({**facts, "digest": folder_hash(folder, facts, large)}, indent=2))


class ArrayWriter:
    """Writes an .npy file of at most `max_rows` rows, a few rows at a time.

    The file is not memory-mapped: on a full disk, writing to a mapped file kills the process.
    """

    def __init__(self, path: Path, max_rows: int) -> None:
        self._file = path.open("wb")
        self._max_rows = max_rows
        self._rows_written = 0

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows after those already written."""
        if not self._rows_written:
            self._row = rows[0]
            self._write_header(self._max_rows)
        self._file.write(np.ascontiguousarray(rows).data)
        self._rows_written += len(rows)

    def _write_header(self, rows: int) -> None:
        header = {"descr": self._row.dtype.str, "fortran_order": False, "shape": (rows, *self._row.shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            if kind is None and self._rows_written:
                self._file.seek(0)
                self._write_header(self._rows_written)  # NumPy pads a header so that another number of rows fits
