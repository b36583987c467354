"""The first batch of a run, as the network sees it."""

from collections.abc import Sequence
from operator import methodcaller
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL.Image import Image

from callbacks.tensorboard.board import write_picture, write_to_tensorboard
from core.names import in_markdown
from datamodules.base import ImageDataModule


class Preview(Callback):
    """Shows the first training batch as the network sees it, and the number of images per class.

    Writes the picture `preview/train` and the text `preview/classes` at step 0, except in a resumed run or without an
    `ImageDataModule`. It draws no random numbers, so that training is the same without it.

    Args:
        max_images: Number of images of the batch to show.

    Raises:
        ValueError: If `max_images` is not positive.
    """

    def __init__(self, max_images: int = 32) -> None:
        if max_images < 1:
            raise ValueError(f"preview.max_images is {max_images}; give a whole number of at least 1")
        self.max_images = max_images

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Show the run's first batch."""
        if batch_idx or trainer.global_step or trainer.current_epoch:
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule):
            return

        def draw() -> Image:
            from callbacks.tensorboard.image_grid import batch_picture

            return batch_picture(batch, data.preprocessing, data.class_names, self.max_images)

        if "train" not in data.replaced:  # cached features, in place of the images, cannot be shown
            write_picture(trainer, "preview/train", draw)
        table = class_table(data.class_names, data.class_counts, data.epoch_counts)
        write_to_tensorboard(trainer, methodcaller("add_text", "preview/classes", table, 0))


def class_table(class_names: Sequence[str], counts: Sequence[int], epoch_counts: Sequence[int]) -> str:
    """Return a Markdown table of the number of images per class."""
    lines = ["| class | training images | images an epoch |", "|---|---:|---:|"]
    for name, count, epoch_count in zip(class_names, counts, epoch_counts, strict=True):
        lines.append(f"| {in_markdown(name)} | {count:,} | {epoch_count:,} |")
    return "\n".join(lines)
