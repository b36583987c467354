from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lightning.pytorch import Trainer
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from callbacks.curves import CSVLogger, TensorBoardLogger
from callbacks.tensorboard.board import write_picture, write_to_tensorboard
from tests.callbacks.tensorboard.test_preview import events


def trainer_with(*loggers: Any, **facts: Any) -> Trainer:
    usual: dict[str, Any] = {"is_global_zero": True, "ckpt_path": None, "global_step": 7}
    usual |= {"checkpoint_callback": None, "default_root_dir": "run"}
    return cast(Trainer, SimpleNamespace(loggers=loggers, **usual | facts))


class Album(CSVLogger):
    """Takes pictures."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pictures: list[tuple[str, int]] = []

    def log_image(self, key: str, images: list[Image.Image], step: int) -> None:
        self.pictures += [(key, step) for _ in images]


@pytest.fixture
def written(tmp_path: Path) -> list[str]:
    return []


def test_writes_to_each_logger_of_tensorboard_in_the_first_process(tmp_path: Path, written: list[str]) -> None:
    def write(writer: SummaryWriter) -> None:
        written.append(str(writer.log_dir))

    ours, other = TensorBoardLogger(tmp_path / "a"), TensorBoardLogger(tmp_path / "b")
    trainer = trainer_with(ours, other, CSVLogger(tmp_path / "c"))
    write_to_tensorboard(trainer, write)
    assert written == [ours.log_dir, other.log_dir]
    write_to_tensorboard(trainer_with(ours, is_global_zero=False), write)
    assert len(written) == 2


def test_what_belongs_to_the_start_is_not_written_again_where_a_run_is_resumed_in_its_folder(
    tmp_path: Path, written: list[str]
) -> None:
    def write(writer: SummaryWriter) -> None:
        written.append("written")

    logger = TensorBoardLogger(tmp_path / "run")
    own, others = tmp_path / "run/checkpoints/last.ckpt", tmp_path / "other/checkpoints/last.ckpt"
    run = {"default_root_dir": str(tmp_path / "run")}
    write_to_tensorboard(trainer_with(logger, ckpt_path=str(own), **run), write, at_start=True)
    assert not written
    write_to_tensorboard(trainer_with(logger, ckpt_path=str(others), **run), write, at_start=True)
    write_to_tensorboard(trainer_with(logger, ckpt_path=str(own), **run), write)
    assert len(written) == 2


def test_a_picture_is_drawn_once_for_all_loggers_that_take_it_and_not_for_others(tmp_path: Path) -> None:
    drawn: list[str] = []

    def draw() -> Image.Image:
        drawn.append("drawn")
        return Image.new("RGB", (2, 2))

    albums = [Album(tmp_path / "a"), Album(tmp_path / "b")]
    ours = TensorBoardLogger(tmp_path / "c")
    run = {"default_root_dir": str(tmp_path / "run")}
    write_picture(trainer_with(CSVLogger(tmp_path / "d"), **run), "confusion_matrix/val", draw)
    write_picture(trainer_with(*albums, is_global_zero=False, **run), "confusion_matrix/val", draw)
    assert not drawn
    write_picture(trainer_with(*albums, ours, **run), "confusion_matrix/val", draw)
    assert [album.pictures for album in albums] == [[("confusion_matrix/val", 7)]] * 2
    assert drawn == ["drawn"]
    ours.finalize("success")
    assert events(tmp_path / "c").Tags()["images"] == ["confusion_matrix/val"]


@pytest.mark.parametrize("is_known_by", ["checkpoints", "root"])
def test_a_picture_of_the_start_is_not_given_again_where_a_run_is_resumed_in_its_folder(
    tmp_path: Path, is_known_by: str
) -> None:
    album, run = Album(tmp_path), tmp_path / "run"
    checkpoints = SimpleNamespace(dirpath=run / "checkpoints") if is_known_by == "checkpoints" else None
    root = run if is_known_by == "root" else tmp_path / "elsewhere"
    facts = {"default_root_dir": str(root), "checkpoint_callback": checkpoints}
    for resumed, pictures in (("run", []), ("another", [("filters/0", 0)])):
        own = str(tmp_path / resumed / "checkpoints" / "last.ckpt")
        trainer = trainer_with(album, ckpt_path=own, **facts)
        write_picture(trainer, "filters/0", lambda: Image.new("RGB", (2, 2)), at_start=True)
        assert album.pictures == pictures
