"""Write pictures to every logger that accepts them, and graphs, texts and layouts to TensorBoard."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL.Image import Image

from callbacks.curves import TensorBoardLogger

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def write_to_tensorboard(trainer: Trainer, write: "Callable[[SummaryWriter], Any]", *, at_start: bool = False) -> None:
    """Call `write` with the writer of each TensorBoard logger, on rank 0.

    With `at_start`, a run that is resumed in its folder writes nothing, because the folder has the entry already.
    """
    if _is_due(trainer, at_start):
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.write(write)


def write_picture(trainer: Trainer, name: str, draw: Callable[[], Image], *, at_start: bool = False) -> None:
    """Log a picture to MLflow and to every logger with Lightning's `log_image`, on rank 0.

    `draw` is called at most once, and only if a logger accepts pictures. With `at_start`, the step is 0, and a run
    that is resumed in its folder logs nothing.
    """
    if not _is_due(trainer, at_start):
        return
    step = 0 if at_start else trainer.global_step
    draw_once = cache(draw)
    for logger in trainer.loggers:
        if isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, draw_once(), key=name, step=step)
        elif hasattr(logger, "log_image") and not isinstance(logger, DummyLogger):  # that of trainer.fast_dev_run
            logger.log_image(name, [draw_once()], step=step)


def _is_due(trainer: Trainer, at_start: bool) -> bool:
    folder = Path(getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir)
    is_resumed = bool(trainer.ckpt_path) and folder.resolve() in Path(str(trainer.ckpt_path)).resolve().parents
    return trainer.is_global_zero and not (at_start and is_resumed)
