from pathlib import Path

import pytest
import torch

from models.checkpoint import newest_checkpoint
from models.checksums import damaged_part
from models.weights import read_weights

STATE = {"weight": torch.zeros(1000)}


def test_finds_a_part_in_which_a_bit_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(STATE, path)
    assert damaged_part(path) is None
    content = bytearray(path.read_bytes())
    content[content.index(bytes(1000)) + 500] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["weight"].any()
    assert damaged_part(path) == "a/data/0"


def test_what_was_written_without_checksums_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(STATE, tmp_path / "quick.pth")
        torch.save({"state_dict": STATE, "optimizer_states": [], "global_step": 1}, tmp_path / "quick.ckpt")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    for name in ("old.pth", "quick.pth"):
        assert torch.equal(read_weights(tmp_path / name).tensors["weight"], STATE["weight"])
    assert newest_checkpoint(tmp_path) == tmp_path / "quick.ckpt"
    assert capsys.readouterr().out == ""
