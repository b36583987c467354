"""Arrays in a folder that hold what was written: small ones by a digest, rows of large ones where they are first read.

So a damaged row is never computed with, and every training step after the first epoch pays nothing for that.
"""

import json
import zlib
from collections.abc import Collection, Mapping
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from core.plain_data import read_json

FACTS = "facts.json"  # says what is in the folder of a pack or of features

HEADER_BYTES = 128  # what precedes the values in a file of NumPy, unless the shape takes more than a line

CHECKED_ROWS = 32  # rows that are read when an array is opened: a disk that lost power may keep a file's length alone


def write_facts(folder: Path, facts: Mapping[str, Any], large: Collection[str]) -> None:
    """Write the facts and a digest of the folder; of `large` arrays, whose rows have checksums, only of the header."""
    (folder / FACTS).write_text(json.dumps({**facts, "digest": _digest(folder, facts, large)}, indent=2))


def read_checked_facts(folder: Path, version: int, large: Collection[str]) -> dict[str, Any]:
    """Read the facts of a folder of this version that holds what was written; a ValueError says why it does not."""
    facts: dict[str, Any] = read_json(folder / FACTS)
    if facts["version"] != version:
        raise ValueError(f"it was written by version {facts['version']}, this is {version}")
    if facts.pop("digest") != _digest(folder, facts, large):
        raise ValueError("its content is not what was written")
    return facts


def _digest(folder: Path, facts: Mapping[str, Any], large: Collection[str]) -> str:
    digest = blake2b(json.dumps(facts).encode(), digest_size=16)
    for path in sorted(chain(folder.glob("*.npy"), folder.glob("*.parquet"))):
        with path.open("rb") as file:
            digest.update(file.read(HEADER_BYTES if path.stem in large else -1))
    return digest.hexdigest()


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
        self._file, self._most, self._written = path.open("wb"), most, 0

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows behind those that were written."""
        if not self._written:
            self._row = rows[0]
            self._write_header(self._most)
        self._file.write(np.ascontiguousarray(rows).data)
        self._written += len(rows)

    def _write_header(self, rows: int) -> None:
        header = {"descr": self._row.dtype.str, "fortran_order": False, "shape": (rows, *self._row.shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            if kind is None and self._written:
                self._file.seek(0)
                self._write_header(self._written)  # NumPy leaves room in a header for another number of rows
