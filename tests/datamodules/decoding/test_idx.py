from pathlib import Path

import numpy as np

from datamodules.decoding.idx import find_idx, read_idx


def test_reads_any_shape_and_prefers_the_plain_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + bytes(range(6)))
    (tmp_path / "a.gz").write_bytes(b"")
    (tmp_path / "b.gz").write_bytes(b"")
    assert np.array_equal(read_idx(find_idx(tmp_path, "a")), [[0, 1, 2], [3, 4, 5]])
    assert find_idx(tmp_path, "b") == tmp_path / "b.gz"
    assert find_idx(tmp_path, "c") == tmp_path / "c"
