from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning.pytorch.loggers
import pytest
from lightning.pytorch import Trainer
from torch.utils.tensorboard import SummaryWriter

from callbacks.curves import CSVLogger, TensorBoardLogger
from callbacks.tensorboard.board import write_to_tensorboard


def trainer_with(*loggers: Any, **facts: Any) -> Trainer:
    return cast(Trainer, SimpleNamespace(loggers=loggers, **{"is_global_zero": True, "ckpt_path": None} | facts))


@pytest.fixture
def written(tmp_path: Path) -> list[str]:
    return []


def test_writes_to_each_logger_of_tensorboard_in_the_first_process(tmp_path: Path, written: list[str]) -> None:
    def write(writer: SummaryWriter) -> None:
        written.append(str(writer.log_dir))

    ours, other = TensorBoardLogger(tmp_path / "a"), lightning.pytorch.loggers.TensorBoardLogger(tmp_path / "b")
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
    write_to_tensorboard(trainer_with(logger, ckpt_path=str(own)), write, at_start=True)
    assert not written
    write_to_tensorboard(trainer_with(logger, ckpt_path=str(others)), write, at_start=True)
    write_to_tensorboard(trainer_with(logger, ckpt_path=str(own)), write)
    assert len(written) == 2
