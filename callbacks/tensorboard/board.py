"""Write pictures, graphs and layouts to TensorBoard."""

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch.loggers
from lightning.pytorch import Trainer
from torch.utils.tensorboard import SummaryWriter

from callbacks.curves import TensorBoardLogger


def write_to_tensorboard(trainer: Trainer, write: Callable[[SummaryWriter], None], *, at_start: bool = False) -> None:
    """Write for TensorBoard what is no figure, in the first process, to every logger of its kind."""
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if not isinstance(logger, lightning.pytorch.loggers.TensorBoardLogger):
            continue
        folder = Path(logger.log_dir).resolve()
        if at_start and trainer.ckpt_path and folder in Path(trainer.ckpt_path).resolve().parents:
            continue
        if isinstance(logger, TensorBoardLogger):
            logger.write(write)
        else:
            write(logger.experiment)
