"""Write pictures, graphs and layouts to TensorBoard."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch.loggers
from lightning.pytorch import Trainer

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
        folder = Path(str(logger.log_dir)).resolve()
        if at_start and trainer.ckpt_path and folder in Path(trainer.ckpt_path).resolve().parents:
            continue
        if isinstance(logger, TensorBoardLogger):
            logger.write(write)
        else:
            write(logger.experiment)


def write_picture(trainer: Trainer, name: str, draw: "Callable[[], Image]", *, at_start: bool = False) -> None:
    """Write a picture, drawn only if there is a TensorBoard logger to take it."""

    def write(writer: "SummaryWriter") -> None:
        import numpy as np

        step = 0 if at_start else trainer.global_step
        writer.add_image(name, np.asarray(draw()), step, dataformats="HWC")

    write_to_tensorboard(trainer, write, at_start=at_start)
