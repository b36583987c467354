"""The first batch of a training, as the network sees it."""

from collections.abc import Sequence
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks.tensorboard.board import write_picture, write_to_tensorboard
from core.names import in_markdown
from datamodules.base import ImageDataModule
from datamodules.batching.normalization import unnormalised
from datamodules.batching.transform import Batch

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_TABLE = 50  # classes up to which all are listed
ENDS = 10  # classes listed of the largest and of the smallest where there are more


class Preview(Callback):
    """Shows the first batch of a run in TensorBoard, as the network sees it, and the number of images of each class.

    Writes the image `preview/train` and the text `preview/classes` at step 0; nothing when a run is resumed, and
    nothing without an `ImageDataModule`. Draws no random numbers: training is the same without it.

    Args:
        max_images: Images to show of the batch.

    Raises:
        ValueError: If `max_images` is not positive.
    """

    def __init__(self, max_images: int = 32) -> None:
        if max_images < 1:
            raise ValueError(f"preview.max_images is {max_images}; give a whole number of at least 1")
        self.max_images = max_images

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Show the batch if it is the run's first."""
        if batch_idx or trainer.global_step or trainer.current_epoch:
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule):
            return
        if "train" not in data.replaced:  # features are no picture
            write_picture(trainer, "preview/train", lambda: batch_picture(batch, data, self.max_images))
        table = class_table(data.class_names, data.class_counts, data.epoch_counts)
        write_to_tensorboard(trainer, methodcaller("add_text", "preview/classes", table, 0))


def batch_picture(batch: Batch, data: ImageDataModule, max_images: int) -> "Image":
    """Draw the first images of a batch of `data` as the network sees them, with class names.

    The batch is normalised images, float `[B, C, H, W]`, and labels, int64 `[B]` or, of mixed images, probabilities
    `[B, K]`.
    """
    from callbacks.tensorboard.image_grid import image_grid

    images, labels = (part[:max_images].detach().cpu() for part in batch)
    assert data.mean is not None, "setup comes before"
    assert data.std is not None, "setup comes before"
    assert data.pack is not None, "setup comes before"
    levels = unnormalised(images, data.mean, data.std, data.pack.pixel_format.highest)
    return image_grid(levels, captions(labels, data.class_names, data.is_multi_label))


def captions(labels: Tensor, class_names: Sequence[str], multi_label: bool = False) -> list[str]:
    """Name the class of each image, or the two largest parts of a mixed one, on two lines; of several labels, each."""
    if labels.ndim == 1:
        return [class_names[label] for label in labels.tolist()]
    if multi_label:
        named = (
            [f"{name} {share:.2f}" for name, share in zip(class_names, row, strict=True) if share >= 0.005]
            for row in labels.tolist()
        )
        return ["\n".join(row) or "no label" for row in named]
    texts = []
    for row in labels:
        weights, classes = row.topk(2)
        (first, second), (weight, rest) = ([class_names[label] for label in classes.tolist()], weights.tolist())
        texts.append(f"{first} {weight:.2f}\n+ {second} {rest:.2f}" if rest >= 0.005 else first)
    return texts


def class_table(class_names: Sequence[str], counts: Sequence[int], epoch_counts: Sequence[int]) -> str:
    """List the images of each class, in Markdown; of many classes, the largest and the smallest."""
    labels = list(range(len(class_names)))
    lines = ["| class | training images | images an epoch |", "|---|---:|---:|"]
    if len(labels) > LONGEST_TABLE:
        labels.sort(key=lambda label: -counts[label])
        labels = labels[:ENDS] + labels[-ENDS:]
        lines[:0] = [f"The {ENDS} largest and the {ENDS} smallest of {len(class_names)} classes.", ""]
    lines += [f"| {in_markdown(class_names[at])} | {counts[at]:,} | {epoch_counts[at]:,} |" for at in labels]
    return "\n".join(lines)
