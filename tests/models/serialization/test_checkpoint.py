import tomllib
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, BinaryIO

import pytest
import torch

from core.durable_file import part_of, publish
from core.user_error import UserError
from models.serialization.checkpoint import VERSION, newest_checkpoint, read_checkpoint
from models.serialization.checkpoint_io import DurableCheckpointIO
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


@pytest.mark.parametrize("version", ["999.0", "999.0.dev1+local", "the next"])
def test_refuses_what_a_newer_version_has_written_and_names_both(tmp_path: Path, version: str) -> None:
    torch.save(WHOLE | {"versions": {"kindling": version}}, tmp_path / "newer.ckpt")
    with pytest.raises(UserError) as refusal:
        read_checkpoint(tmp_path / "newer.ckpt")
    assert f"newer.ckpt was written by Kindling {version}, this is Kindling {VERSION};" in str(refusal.value)


@pytest.mark.parametrize("versions", [{"kindling": VERSION}, {"kindling": "0.0.1"}, {"torch": "999"}, None])
def test_reads_what_this_and_older_versions_have_written(tmp_path: Path, versions: dict[str, str] | None) -> None:
    torch.save(WHOLE | {"versions": versions}, tmp_path / "older.ckpt")
    assert read_checkpoint(tmp_path / "older.ckpt")["class_names"] == ["a", "b"]


def test_the_package_has_the_version_that_checkpoints_carry() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"]
    assert resolve_name(settings["tool"]["setuptools"]["dynamic"]["version"]["attr"]) == VERSION


@pytest.mark.parametrize("other", [{"state_dict": {}}, torch.zeros(3)])
def test_refuses_another_programs_file(tmp_path: Path, other: object) -> None:
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="no checkpoint of this program"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_is_written_beside_its_target_and_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    replace = Path.replace

    def spy(self: Path, target: Path) -> Path:
        seen.append(sorted(file.name[:10] for file in tmp_path.iterdir()))
        assert read_checkpoint(self)["class_names"] == ["a", "b"]
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    DurableCheckpointIO().save_checkpoint(WHOLE, tmp_path / "last.ckpt")
    assert seen == [[".last.ckpt"]]
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_writer_that_fails_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DurableCheckpointIO().save_checkpoint(WHOLE, tmp_path / "last.ckpt")

    def full(_: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        DurableCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert read_checkpoint(tmp_path / "last.ckpt")["class_names"] == ["a", "b"]


def test_what_is_to_be_published_later_is_only_written(tmp_path: Path) -> None:
    part = part_of(tmp_path / "last.ckpt")
    DurableCheckpointIO().save_checkpoint(WHOLE, part)
    assert [file.name for file in tmp_path.iterdir()] == [part.name]
    publish(part, tmp_path / "last.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert read_checkpoint(tmp_path / "last.ckpt")["class_names"] == ["a", "b"]


def test_the_command_line_writes_so(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    save = DurableCheckpointIO.save_checkpoint

    def spy(self: DurableCheckpointIO, checkpoint: dict[str, Any], path: str | Path, **rest: Any) -> None:
        written.append(Path(path))
        save(self, checkpoint, path, **rest)

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", spy)
    run = train("--trainer.max_epochs=2")
    assert written == [part_of(run.last)] * 2


def test_a_changed_bit_is_noticed_wherever_it_matters(tmp_path: Path) -> None:
    DurableCheckpointIO().save_checkpoint(WHOLE | {"global_step": 3}, tmp_path / "whole.ckpt")
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
        DurableCheckpointIO().save_checkpoint(whole, tmp_path / f"{name}.ckpt")
    DurableCheckpointIO().save_checkpoint(WHOLE | {"global_step": 9}, tmp_path / "weights.ckpt")
    assert newest_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    assert capsys.readouterr().out == ""
    damaged = bytearray((tmp_path / "last.ckpt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "last.ckpt").write_bytes(damaged)
    assert newest_checkpoint(tmp_path) == tmp_path / "timed.ckpt"
    assert capsys.readouterr().out.count("last.ckpt is left out: it is damaged, ") == 1
    assert newest_checkpoint(tmp_path / "none") is None
