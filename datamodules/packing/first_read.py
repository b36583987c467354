"""What lies on a disk is compared with its checksum where it is read, so that nothing else is ever computed with."""

import zlib

import numpy as np
from numpy.typing import NDArray


def checksums(rows: NDArray[np.generic]) -> NDArray[np.uint32]:
    """The CRC-32 of each row of an array `[N, ...]`, uint32 `[N]`; it notices every burst of up to 32 bits."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    return np.fromiter((zlib.crc32(row.data) for row in flat), np.uint32, len(flat))


class FirstReads:
    """Compares each row with its checksum when this process reads it for the first time, so that steps pay once.

    Args:
        written: The checksums of all rows, uint32 `[N]`.
    """

    def __init__(self, written: NDArray[np.uint32]) -> None:
        self._written = written
        self._is_checked = np.zeros(len(written), np.bool_)

    def changed(self, places: NDArray[np.int64], rows: NDArray[np.generic]) -> int | None:
        """Find a row that is not what was written.

        Args:
            places: The rows' places, int64 `[B]`.
            rows: What was read there, `[B, ...]`.

        Returns:
            Its position among these, or None.
        """
        new = np.flatnonzero(~self._is_checked[places])
        if not len(new):
            return None
        differs = checksums(rows if len(new) == len(rows) else rows[new]) != self._written[places[new]]
        if differs.any():
            return int(new[differs.argmax()])
        self._is_checked[places] = True
        return None
