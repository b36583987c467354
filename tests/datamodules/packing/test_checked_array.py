import zlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from datamodules.packing.checked_array import ArrayWriter, FirstReads, checksums, map_array


def test_each_row_is_compared_once_and_by_all_of_its_bytes() -> None:
    scans = (load_digits().images[:100] * 15).astype(np.uint8)
    written = checksums(scans)
    assert written[7] == zlib.crc32(scans[7].tobytes())
    reads, places = FirstReads(written), np.array([3, 99, 3])
    assert reads.changed(places, scans[places]) is None
    changed = scans.copy()
    changed[5, 7, 7] ^= 1
    assert reads.changed(np.array([3, 4, 5]), changed[[3, 4, 5]]) == 2
    assert reads.changed(np.array([5]), changed[[5]]) == 0, "it is not let through the next time"
    changed[3] ^= 1
    assert reads.changed(np.array([3]), changed[[3]]) is None


def test_a_file_has_the_rows_that_were_appended(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.int16).reshape(6, 2, 2)
    with ArrayWriter(tmp_path / "a.npy", 1000) as file:
        file.append(rows[:4])
        file.append(rows[4:])
    mapped = map_array(tmp_path / "a.npy")
    assert np.array_equal(mapped, rows)
    assert mapped.dtype == rows.dtype
    assert not FirstReads(checksums(rows)).are_some_changed(mapped)
    assert FirstReads(checksums(rows + 1)).are_some_changed(mapped)
