from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from models.checkpoint import read_checkpoint

WHOLE = {"state_dict": {"weight": torch.arange(1000)}, "class_names": ["a", "b"], "preprocessing": {}}


def test_gives_what_was_saved(tmp_path: Path) -> None:
    torch.save(WHOLE, tmp_path / "whole.ckpt")
    assert read_checkpoint(tmp_path / "whole.ckpt")["class_names"] == ["a", "b"]


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"There is no checkpoint .*none\.ckpt; give"):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("size", [0, 1, 100, 3000, -1])
def test_refuses_a_truncated_file(tmp_path: Path, size: int) -> None:
    torch.save(WHOLE, tmp_path / "whole.ckpt")
    (tmp_path / "part.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:size])
    with pytest.raises(MisconfigurationException, match=r"part\.ckpt cannot be read"):
        read_checkpoint(tmp_path / "part.ckpt")


def test_refuses_code(tmp_path: Path) -> None:
    torch.save(WHOLE | {"hook": print}, tmp_path / "code.ckpt")
    with pytest.raises(MisconfigurationException, match="holds code"):
        read_checkpoint(tmp_path / "code.ckpt")


@pytest.mark.parametrize("other", [{"state_dict": {}}, torch.zeros(3)])
def test_refuses_another_programs_file(tmp_path: Path, other: object) -> None:
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(MisconfigurationException, match="no checkpoint of this program"):
        read_checkpoint(tmp_path / "other.ckpt")
