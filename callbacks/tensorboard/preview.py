"""The first batch of a run, as the network sees it."""

from collections.abc import Sequence
from operator import methodcaller
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL.Image import Image
from torch import Tensor

from callbacks.tensorboard.board import write_picture, write_to_tensorboard
from core.names import in_markdown
from datamodules.base import ImageDataModule
from datamodules.batching.transform import Batch


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
        if "train" not in data.replaced:  # cached features, in place of the images, cannot be shown
            write_picture(trainer, "preview/train", lambda: batch_picture(batch, data, self.max_images))
        table = class_table(data.class_names, data.class_counts, data.epoch_counts)
        write_to_tensorboard(trainer, methodcaller("add_text", "preview/classes", table, 0))


def batch_picture(batch: Batch, data: ImageDataModule, max_images: int) -> Image:
    """Draw the first images of a batch, without their normalisation, captioned by their labels.

    Args:
        batch: Normalised images, float `[B, C, H, W]`, and labels: int64 `[B]`, or float `[B, K]` if images are mixed
            or multi-label.
        data: The data module of the batch.
        max_images: Number of images to draw.
    """
    from callbacks.tensorboard.image_grid import image_grid, unnormalised_images

    images, labels = (part[:max_images].detach().cpu() for part in batch)
    return image_grid(unnormalised_images(images, data.preprocessing), captions(labels, data.class_names))


def captions(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Name the class of each image, or all classes of a mixed or multi-label image with their label values."""
    if labels.ndim == 1:
        return [class_names[label] for label in labels.tolist()]
    texts = []
    for row in labels.tolist():
        lines = [f"{name} {value:.2f}" for name, value in zip(class_names, row, strict=True) if value >= 0.005]
        texts.append("\n".join(lines) or "no label")
    return texts


def class_table(class_names: Sequence[str], counts: Sequence[int], epoch_counts: Sequence[int]) -> str:
    """Return a Markdown table of the number of images per class."""
    lines = ["| class | training images | images an epoch |", "|---|---:|---:|"]
    for name, count, epoch_count in zip(class_names, counts, epoch_counts, strict=True):
        lines.append(f"| {in_markdown(name)} | {count:,} | {epoch_count:,} |")
    return "\n".join(lines)
