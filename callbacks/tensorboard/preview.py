"""A look at what the network is about to be trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from callbacks.tensorboard.board import write_to_tensorboard
from callbacks.tensorboard.image_grid import image_grid
from core.names import in_markdown
from datamodules.base import ImageDataModule
from datamodules.batching.normalization import unnormalised
from datamodules.batching.transform import Batch

LONGEST_TABLE = 50  # classes up to which all are listed

ENDS = 10  # classes listed of the largest and of the smallest where there are more


class Preview(Callback):
    """Puts the first batch of a run into TensorBoard, as the network sees it, and the number of images of each class.

    Writes the image `preview/train` and the text `preview/classes` at step 0 of every TensorBoard logger; nothing when
    a run is taken up in its middle, and nothing without an `ImageDataModule`. Draws no random numbers: training with
    and without it is the same.

    Args:
        max_images: Images to show, of those in the batch.

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

        def write(writer: SummaryWriter) -> None:
            if not data.features:  # of which there is no picture to show
                grid = np.asarray(batch_picture(batch, data, self.max_images))
                writer.add_image("preview/train", grid, 0, dataformats="HWC")
            writer.add_text("preview/classes", class_table(data.class_names, data.class_counts, data.epoch_counts), 0)

        write_to_tensorboard(trainer, write)


def batch_picture(batch: Batch, data: ImageDataModule, max_images: int) -> Image.Image:
    """Draw a batch as the network sees it, with class names.

    Args:
        batch: Normalised images, float `[B, C, H, W]`, and labels, int64 `[B]` or, of mixed images, probabilities
            `[B, K]`.
        data: Whose batch it is.
        max_images: Images to show, of those in the batch.

    Returns:
        The picture, RGB.
    """
    images, labels = (part[:max_images].detach().cpu() for part in batch)
    assert data.mean is not None, "setup comes before"
    assert data.std is not None, "setup comes before"
    return image_grid(unnormalised(images, data.mean, data.std), captions(labels, data.class_names))


def captions(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    r"""Name the class of each image, or the two largest parts of a mixed one, on two lines.

    Args:
        labels: int64 `[B]`, or probabilities, float `[B, K]`.
        class_names: `K` names.

    Example:
        >>> import torch
        >>> captions(torch.tensor([[0.3, 0.7], [1.0, 0.0]]), ["dog", "cat"])
        ['cat 0.70\n+ dog 0.30', 'dog']
    """
    if labels.ndim == 1:
        return [class_names[label] for label in labels.tolist()]
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
