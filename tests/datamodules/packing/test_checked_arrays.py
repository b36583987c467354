import zlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from datamodules.packing.checked_arrays import (
    FACTS,
    ArrayWriter,
    FirstReads,
    checksums,
    map_array,
    read_checked_facts,
    write_facts,
)


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


def test_facts_are_of_one_version_and_of_arrays_as_they_were_written(tmp_path: Path) -> None:
    for name in ("small", "large"):
        np.save(tmp_path / f"{name}.npy", np.arange(100))
    write_facts(tmp_path, {"version": 3, "names": ["cat", "caf\udce9"]}, ["large"])
    assert read_checked_facts(tmp_path, 3, ["large"])["names"] == ["cat", "caf\udce9"]
    with pytest.raises(ValueError, match="written by version 3, this is 4"):
        read_checked_facts(tmp_path, 4, ["large"])
    np.save(tmp_path / "large.npy", np.arange(100)[::-1])  # whose rows have checksums of their own
    read_checked_facts(tmp_path, 3, ["large"])
    for change in (
        lambda: np.save(tmp_path / "small.npy", np.arange(100)[::-1]),
        lambda: (tmp_path / FACTS).write_text((tmp_path / FACTS).read_text().replace("cat", "dog")),
    ):
        write_facts(tmp_path, {"version": 3, "names": ["cat"]}, ["large"])
        change()
        with pytest.raises(ValueError, match="not what was written"):
            read_checked_facts(tmp_path, 3, ["large"])
