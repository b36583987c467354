"""Read the arrays of a pack, and detect damaged ones by a hash or, when it is first read, by a checksum of each row."""

import json
import zlib
from collections.abc import Collection, Mapping
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.plain_data import read_json

FACTS = "facts.json"  # describes the content of the folder

HEADER_BYTES = 128  # size of the header of an .npy file, unless the shape takes more than one line

# Rows verified when an array is opened: after a power failure, a file can have the right size but the wrong content.
CHECKED_ROWS = 32


def read_checked_facts(folder: Path, version: int, large: Collection[str]) -> dict[str, Any]:
    """Read the facts of a folder, and raise ValueError if its version or its hash does not match."""
    facts: dict[str, Any] = read_json(folder / FACTS)
    if facts["version"] != version:
        raise ValueError(f"it was written by version {facts['version']}, this is {version}")
    if facts.pop("digest") != folder_hash(folder, facts, large):
        raise ValueError("its content is not what was written")
    return facts


def folder_hash(folder: Path, facts: Mapping[str, Any], large: Collection[str]) -> str:
    """Hash the facts and all arrays of a folder; of `large` arrays, whose rows have checksums, only the header."""
    digest = blake2b(json.dumps(facts).encode(), digest_size=16)
    for path in sorted(chain(folder.glob("*.npy"), folder.glob("*.parquet"))):
        with path.open("rb") as file:
            digest.update(file.read(HEADER_BYTES if path.stem in large else -1))
    return digest.hexdigest()


def map_array(file: Path) -> NDArray[Any]:
    """Map an .npy file into memory."""
    # In copy-on-write mode, processes share the pages, and the array is writable, as torch.from_numpy requires.
    mapped: NDArray[Any] = np.load(file, mmap_mode="c", allow_pickle=False)
    return mapped


def checksums(rows: NDArray[np.generic]) -> NDArray[np.uint32]:
    """Return the CRC-32 of each row of an array `[N, ...]`, uint32 `[N]`; it detects every burst of up to 32 bits."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    return np.fromiter((zlib.crc32(row.data) for row in flat), np.uint32, len(flat))


class FirstReads:
    """Verifies rows by their checksums, uint32 `[N]`, when this process first reads them; later epochs cost nothing."""

    def __init__(self, expected: NDArray[np.uint32]) -> None:
        self._expected = expected
        self._is_checked = np.zeros(len(expected), np.bool_)

    def changed(self, indices: NDArray[np.int64], rows: NDArray[np.generic]) -> int | None:
        """Return the position of the first damaged row among `rows`, read at `indices` int64 `[B]`, or None."""
        unchecked = np.flatnonzero(~self._is_checked[indices])
        if not len(unchecked):
            return None
        unchecked_rows = rows if len(unchecked) == len(rows) else rows[unchecked]
        differs = checksums(unchecked_rows) != self._expected[indices[unchecked]]
        if differs.any():
            return int(unchecked[differs.argmax()])
        self._is_checked[indices] = True
        return None

    def are_some_changed(self, rows: NDArray[np.generic]) -> bool:
        """Return True if one of `CHECKED_ROWS` rows, spread over the whole array, is damaged."""
        indices = np.linspace(0, len(rows) - 1, min(CHECKED_ROWS, len(rows))).astype(np.int64)
        return self.changed(indices, rows[indices]) is not None
