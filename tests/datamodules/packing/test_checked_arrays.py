import zlib

import numpy as np
from sklearn.datasets import load_digits

from datamodules.packing.checked_arrays import FirstReads, checksums


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
