"""The mistakes of the test that the network was most certain of.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes; `n` images.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.run.outside_steps import OutsideSteps
from callbacks.tensorboard.board import write_picture
from models.classifier import Classifier

# Images float `[n, C, H, W]`; prediction and label int64 `[n, 2]`; their probabilities float32 `[n, 2]`, the first -1
# where the prediction is right.
Mistakes = tuple[Tensor, ...]


class WorstMistakes(OutsideSteps):
    """Draws for TensorBoard, as `worst_mistakes/test`, the test images whose wrong class was most probable.

    Each is captioned by the class predicted, the label, and the probability of both, from the logits of all processes.
    Of several labels per image nothing is drawn; `scripts/evaluate.py` shows the mistakes of each.

    Args:
        max_images: Images to show.

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
        """Keep the worst of this batch and those before, without waiting for the device."""
        images, labels = batch
        if labels.ndim > 1:
            return
        if self._worst is None:  # equally many in each process
            nothing = torch.full((self.max_images, 2), -1.0, device=images.device)
            self._worst = images.new_zeros(self.max_images, *images.shape[1:]), nothing.long(), nothing
        if isinstance(outputs, Tensor):
            parts = zip(self._worst, mistakes(images, labels, outputs), strict=True)
            self._worst = worst([torch.cat(pair) for pair in parts], self.max_images)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them, if there is a mistake."""
        if self._worst is None:
            return
        parts, self._worst = [cast(Tensor, pl_module.all_gather(part)) for part in self._worst], None
        if trainer.world_size > 1:
            parts = [part.flatten(0, 1) for part in parts]
        images, classes, probabilities = (part.cpu() for part in worst(parts, self.max_images))
        wrong, classifier = probabilities[:, 0] >= 0, cast(Classifier, pl_module)
        if not wrong.any():
            return

        from callbacks.tensorboard.image_grid import image_grid, unnormalised_images

        shown = unnormalised_images(images[wrong], classifier.preprocessing)
        texts = captions(classes[wrong], probabilities[wrong], classifier.class_names)
        write_picture(trainer, "worst_mistakes/test", lambda: image_grid(shown, texts))


def mistakes(images: Tensor, labels: Tensor, logits: Tensor) -> Mistakes:
    """A row for each image of a batch: images `[B, C, H, W]`, labels int64 `[B]`, logits float `[B, K]`."""
    probabilities = logits.float().softmax(dim=1)
    best, predicted = probabilities.max(dim=1)
    own = probabilities.gather(1, labels[:, None])[:, 0]
    certain = torch.where(predicted == labels, -1.0, best)
    return images, torch.stack([predicted, labels], dim=1), torch.stack([certain, own], dim=1)


def worst(parts: Sequence[Tensor], most: int) -> Mistakes:
    """The rows whose wrong class is the most probable, the first of equals first."""
    order = parts[2][:, 0].argsort(descending=True, stable=True)[:most]
    return tuple(part[order] for part in parts)


def captions(classes: Tensor, probabilities: Tensor, class_names: Sequence[str]) -> list[str]:
    """Name prediction and label of each image, with their probabilities."""
    return [
        f"{class_names[predicted]}, {certain:.0%}\nis {class_names[label]}, {own:.0%}"
        for (predicted, label), (certain, own) in zip(classes.tolist(), probabilities.tolist(), strict=True)
    ]
