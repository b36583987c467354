from pathlib import Path

import numpy as np
import pytest

from datamodules.packing.array_writer import ArrayWriter, write_facts
from datamodules.packing.checked_arrays import FACTS, FirstReads, checksums, map_array, read_checked_facts


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
