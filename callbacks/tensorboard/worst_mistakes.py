"""The test images that the network misclassified with the highest probability.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes; `n` images.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from PIL.Image import Image
from torch import Tensor

from callbacks.run.outside_steps import OutsideSteps
from callbacks.tensorboard.board import write_picture
from models.classifier import Classifier

# Three tensors: images, float `[n, C, H, W]`; predicted class and label, int64 `[n, 2]`; the probabilities of both,
# float32 `[n, 2]`. A correct prediction has -1 in place of its first probability.
Mistakes = tuple[Tensor, ...]


class WorstMistakes(OutsideSteps):
    """Draws the test images whose wrong prediction was most probable, as `worst_mistakes/test`.

    The caption of each image has the predicted class, the label, and the probability of both. The mistakes of all ranks
    are compared. Multi-label images are not drawn; `scripts/evaluate.py` shows their mistakes.

    Args:
        max_images: Number of images to draw.

    Raises:
        ValueError: If `max_images` is not positive.
    """

    def __init__(self, max_images: int = 32) -> None:
        if max_images < 1:
            raise ValueError(f"worst_mistakes.max_images is {max_images}; give a whole number of at least 1")
        self.max_images = max_images
        self._worst: Mistakes | None = None

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Keep the worst mistakes so far, on the device."""
        images, labels = batch
        if labels.ndim > 1:
            return
        if self._worst is None:  # every rank starts with `max_images` rows, so that all ranks can be gathered
            rows = torch.full((self.max_images, 2), -1.0, device=images.device)
            self._worst = images.new_zeros(self.max_images, *images.shape[1:]), rows.long(), rows
        if isinstance(outputs, Tensor):
            parts = zip(self._worst, mistakes(images, labels, outputs), strict=True)
            self._worst = worst([torch.cat(pair) for pair in parts], self.max_images)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the mistakes of all ranks, and draw the worst of them."""
        if self._worst is None:
            return
        gathered = [cast(Tensor, pl_module.all_gather(part)).reshape(-1, *part.shape[1:]) for part in self._worst]
        self._worst = None
        images, classes, probabilities = (part.cpu() for part in worst(gathered, self.max_images))
        is_wrong = probabilities[:, 0] >= 0
        classifier = cast(Classifier, pl_module)

        def draw() -> Image:
            from callbacks.tensorboard.image_grid import image_grid, unnormalised_images

            tiles = unnormalised_images(images[is_wrong], classifier.preprocessing)
            return image_grid(tiles, captions(classes[is_wrong], probabilities[is_wrong], classifier.class_names))

        if is_wrong.any():
            write_picture(trainer, "worst_mistakes/test", draw)


def mistakes(images: Tensor, labels: Tensor, logits: Tensor) -> Mistakes:
    """Return the rows of a batch: images float `[B, C, H, W]`, labels int64 `[B]`, logits float `[B, K]`."""
    probabilities = logits.float().softmax(dim=1)
    highest, predicted = probabilities.max(dim=1)
    of_label = probabilities.gather(1, labels[:, None])[:, 0]
    of_mistake = torch.where(predicted == labels, -1.0, highest)
    return images, torch.stack([predicted, labels], dim=1), torch.stack([of_mistake, of_label], dim=1)


def worst(parts: Sequence[Tensor], max_images: int) -> Mistakes:
    """Return the `max_images` rows with the highest probability of a wrong class; equal rows keep their order."""
    order = parts[2][:, 0].argsort(descending=True, stable=True)[:max_images]
    return tuple(part[order] for part in parts)


def captions(classes: Tensor, probabilities: Tensor, class_names: Sequence[str]) -> list[str]:
    """Name the prediction and the label of each image, with their probabilities."""
    return [
        f"{class_names[predicted]}, {certain:.0%}\nis {class_names[label]}, {of_label:.0%}"
        for (predicted, label), (certain, of_label) in zip(classes.tolist(), probabilities.tolist(), strict=True)
    ]
