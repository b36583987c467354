import tomllib
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from core.user_error import UserError
from models.serialization.checkpoint import (
    FORMAT_VERSION,
    VERSION,
    CheckpointContent,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from tests.conftest import Run
from tests.discovery import ROOT

WHOLE: dict[str, Any] = {"state_dict": {"weight": torch.arange(1000)}, "class_names": ["a", "b"], "preprocessing": {}}


def test_gives_what_was_saved(tmp_path: Path) -> None:
    torch.save(WHOLE, tmp_path / "whole.ckpt")
    assert read_checkpoint(tmp_path / "whole.ckpt")["class_names"] == ["a", "b"]


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no checkpoint .*none\.ckpt; give"):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("size", [0, 1, 100, 3000, -1])
def test_refuses_a_truncated_file(tmp_path: Path, size: int) -> None:
    torch.save(WHOLE, tmp_path / "whole.ckpt")
    (tmp_path / "part.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:size])
    with pytest.raises(UserError, match=r"part\.ckpt cannot be read"):
        read_checkpoint(tmp_path / "part.ckpt")


def test_refuses_code(tmp_path: Path) -> None:
    torch.save(WHOLE | {"hook": print}, tmp_path / "code.ckpt")
    with pytest.raises(UserError, match="holds code"):
        read_checkpoint(tmp_path / "code.ckpt")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, "2", None])
def test_refuses_a_newer_format_and_names_the_version_that_wrote_it(tmp_path: Path, version: object) -> None:
    torch.save(WHOLE | {"format_version": version, "versions": {"kindling": "999.0"}}, tmp_path / "newer.ckpt")
    with pytest.raises(UserError) as refusal:
        read_checkpoint(tmp_path / "newer.ckpt")
    assert f"Kindling {VERSION} reads: it was written by Kindling 999.0 in format {version}; give" in str(refusal.value)


@pytest.mark.parametrize("more", [{}, {"format_version": 1}, {"versions": {"kindling": VERSION}}, {"versions": None}])
def test_reads_this_and_older_formats(tmp_path: Path, more: dict[str, Any]) -> None:
    torch.save(WHOLE | more, tmp_path / "older.ckpt")
    assert read_checkpoint(tmp_path / "older.ckpt")["class_names"] == ["a", "b"]


@pytest.mark.slow
def test_a_run_writes_the_parts_of_the_schema(train: Callable[..., Run]) -> None:
    written = train("--trainer.max_epochs=1").checkpoint
    assert written["format_version"] == FORMAT_VERSION
    assert CheckpointContent.__annotations__.keys() - written.keys() == {
        *("counts", "averaged", "raw_state_dict", "thresholds"),
    }


def test_the_package_has_the_version_that_checkpoints_carry() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"]
    assert resolve_name(settings["tool"]["setuptools"]["dynamic"]["version"]["attr"]) == VERSION


@pytest.mark.parametrize("other", [{"state_dict": {}}, torch.zeros(3)])
def test_refuses_another_programs_file(tmp_path: Path, other: object) -> None:
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="no checkpoint that Kindling"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_changed_bit_is_noticed_wherever_it_matters(tmp_path: Path) -> None:
    write_checkpoint(WHOLE | {"global_step": 3}, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    read_checkpoint(tmp_path / "whole.ckpt")
    noticed = 0
    for place in range(0, len(whole), 31):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (tmp_path / "changed.ckpt").write_bytes(changed)
        try:
            weight = read_checkpoint(tmp_path / "changed.ckpt")["state_dict"]["weight"]
        except UserError:
            noticed += 1
        else:
            assert torch.equal(weight, WHOLE["state_dict"]["weight"])
    assert noticed > len(whole) / 31 / 2


def test_the_newest_is_the_furthest_that_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, step in (("best", 3), ("last", 7), ("timed", 5)):
        whole = WHOLE | {"global_step": step, "optimizer_states": []}
        write_checkpoint(whole, tmp_path / f"{name}.ckpt")
    write_checkpoint(WHOLE | {"global_step": 9}, tmp_path / "weights.ckpt")
    assert newest_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    assert capsys.readouterr().out == ""
    damaged = bytearray((tmp_path / "last.ckpt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "last.ckpt").write_bytes(damaged)
    assert newest_checkpoint(tmp_path) == tmp_path / "timed.ckpt"
    assert capsys.readouterr().out.count("last.ckpt is left out: it is truncated or damaged") == 1
    assert newest_checkpoint(tmp_path / "none") is None
