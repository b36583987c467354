"""Write pictures for every logger that takes them, and graphs and layouts for TensorBoard."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch.loggers
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger

from callbacks.curves import TensorBoardLogger

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter


def write_to_tensorboard(trainer: Trainer, write: "Callable[[SummaryWriter], Any]", *, at_start: bool = False) -> None:
    """Let every TensorBoard logger write, in the first process; at the start of a run not again when it is resumed."""
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger | lightning.pytorch.loggers.TensorBoardLogger):
            continue
        if at_start and _is_resumed(trainer, Path(str(logger.log_dir))):
            continue
        if isinstance(logger, TensorBoardLogger):
            logger.write(write)
        else:
            write(logger.experiment)


def write_picture(trainer: Trainer, name: str, draw: "Callable[[], Image]", *, at_start: bool = False) -> None:
    """Give a picture, drawn once if at all, to TensorBoard, W&B, MLflow and every other logger with a `log_image`."""
    step, drawn = 0 if at_start else trainer.global_step, cache(draw)

    def write(writer: "SummaryWriter") -> None:
        import numpy as np

        writer.add_image(name, np.asarray(drawn()), step, dataformats="HWC")

    write_to_tensorboard(trainer, write, at_start=at_start)
    folder = getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir
    if not trainer.is_global_zero or (at_start and _is_resumed(trainer, Path(folder))):
        return
    for logger in trainer.loggers:
        if isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, drawn(), key=name, step=step)
        elif hasattr(logger, "log_image"):
            logger.log_image(name, [drawn()], step=step)


def _is_resumed(trainer: Trainer, folder: Path) -> bool:
    return bool(trainer.ckpt_path) and folder.resolve() in Path(str(trainer.ckpt_path)).resolve().parents
