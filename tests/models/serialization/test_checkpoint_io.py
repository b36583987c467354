from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from core.durable_file import part_of, publish
from models.serialization.checkpoint import read_checkpoint
from models.serialization.checkpoint_io import DurableCheckpointIO
from tests.conftest import Run
from tests.models.serialization.test_checkpoint import WHOLE


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


@pytest.mark.slow
def test_the_command_line_writes_so(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    save = DurableCheckpointIO.save_checkpoint

    def spy(self: DurableCheckpointIO, checkpoint: dict[str, Any], path: str | Path, **rest: Any) -> None:
        written.append(Path(path))
        save(self, checkpoint, path, **rest)

    monkeypatch.setattr(DurableCheckpointIO, "save_checkpoint", spy)
    run = train("--trainer.max_epochs=2")
    assert written == [part_of(run.last)] * 2
