"""Arrays in files: written row by row, mapped into memory, and compared with checksums where they are first read.

So a damaged row is never computed with, and every training step after the first epoch pays nothing for that.
"""

import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

CHECKED_ROWS = 32  # rows that are read when an array is opened: a disk that lost power may keep a file's length alone


def map_array(file: Path) -> NDArray[Any]:
    """An array in a file of NumPy, as memory that is filled when it is read."""
    # Copy-on-write: pages stay shared between processes, and the array is writable, as torch wants it.
    mapped: NDArray[Any] = np.load(file, mmap_mode="c", allow_pickle=False)
    return mapped


def checksums(rows: NDArray[np.generic]) -> NDArray[np.uint32]:
    """The CRC-32 of each row of an array `[N, ...]`, uint32 `[N]`; it notices every burst of up to 32 bits."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    return np.fromiter((zlib.crc32(row.data) for row in flat), np.uint32, len(flat))


class FirstReads:
    """Compares each row with its checksum, uint32 `[N]`, when this process reads it for the first time."""

    def __init__(self, written: NDArray[np.uint32]) -> None:
        self._written = written
        self._is_checked = np.zeros(len(written), np.bool_)

    def changed(self, places: NDArray[np.int64], rows: NDArray[np.generic]) -> int | None:
        """The position among `rows`, read at `places` int64 `[B]`, of one that is not what was written, or None."""
        new = np.flatnonzero(~self._is_checked[places])
        if not len(new):
            return None
        differs = checksums(rows if len(new) == len(rows) else rows[new]) != self._written[places[new]]
        if differs.any():
            return int(new[differs.argmax()])
        self._is_checked[places] = True
        return None

    def are_some_changed(self, rows: NDArray[np.generic]) -> bool:
        """Whether any of a few of all rows is not what was written."""
        some = np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows))).astype(np.int64)
        return self.changed(some, rows[some]) is not None


class ArrayWriter:
    """Writes a file of up to `most` rows. It is not mapped: a mapped file that outgrows the disk ends the process."""

    def __init__(self, path: Path, most: int) -> None:
        self._file = path.open("wb")
        self._most = most
        self._rows = 0
        self._row: NDArray[Any] | None = None

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows behind those that were written."""
        if self._row is None:
            self._row = np.empty((0, *rows.shape[1:]), rows.dtype)
            self._write_header(self._most)
        self._file.write(np.ascontiguousarray(rows).data)
        self._rows += len(rows)

    def _write_header(self, rows: int) -> None:
        if self._row is not None:
            shape = (rows, *self._row.shape[1:])
            header = {"descr": self._row.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._write_header(self._rows)  # NumPy leaves room in a header for another number of rows
