"""Write pictures for every logger that takes them, and graphs and layouts for TensorBoard."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger

from callbacks.curves import TensorBoardLogger

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter


def write_to_tensorboard(trainer: Trainer, write: "Callable[[SummaryWriter], Any]", *, at_start: bool = False) -> None:
    """Let TensorBoard's writers write, in the first process; at the start of a run not again when it is resumed."""
    if _is_due(trainer, at_start):
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.write(write)


def write_picture(trainer: Trainer, name: str, draw: "Callable[[], Image]", *, at_start: bool = False) -> None:
    """Give a picture, drawn once if at all, to MLflow and to every logger with Lightning's `log_image`."""
    if not _is_due(trainer, at_start):
        return
    step, drawn = 0 if at_start else trainer.global_step, cache(draw)
    for logger in trainer.loggers:
        if isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, drawn(), key=name, step=step)
        elif hasattr(logger, "log_image"):
            logger.log_image(name, [drawn()], step=step)


def _is_due(trainer: Trainer, at_start: bool) -> bool:
    folder = Path(getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir)
    is_resumed = bool(trainer.ckpt_path) and folder.resolve() in Path(str(trainer.ckpt_path)).resolve().parents
    return trainer.is_global_zero and not (at_start and is_resumed)
