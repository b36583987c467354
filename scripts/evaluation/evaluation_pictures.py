"""Images of an evaluation, with where in them the network looked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from callbacks.tensorboard.image_grid import as_rgb, picture
from scripts.evaluation.evaluation import Evaluation
from scripts.inference.layers import grad_cam, last_maps
from scripts.inference.trained_network import TrainedNetwork
from scripts.report.page import embedded

SMALLEST_SIDE = 96  # pixels that an image with a map over it has at least


@dataclass(frozen=True)
class ShownImage:
    """An image on the page."""

    picture: Markup
    caption: Sequence[str]  # lines of plain text
    seen: Markup | None = None  # where in it the network looked


class EvaluationPictures:
    """Makes pictures of images of the split."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._trained = evaluation.trained
        has_images = len(evaluation.tested) > 0
        self.layer = (
            last_maps(self._trained.network, self._trained.normalize(self._images([0]))) if has_images else None
        )
        """The layer that Grad-CAM looks into, if the network has one."""

    def _images(self, rows: Sequence[int]) -> Tensor:
        """uint8 `[B, C, H, W]`."""
        pack = self._evaluation.data.pack
        assert pack is not None, "setup comes before"
        return pack[torch.from_numpy(self._evaluation.tested.places[list(rows)])][0]

    def plain(self, rows: Sequence[int]) -> list[ShownImage]:
        """The images with their captions."""
        if not rows:
            return []
        return [
            ShownImage(embedded(picture(image)), self._evaluation.caption(row))
            for row, image in zip(rows, as_rgb(self._images(rows)), strict=True)
        ]

    def with_grad_cam(self, rows: Sequence[int]) -> list[ShownImage]:
        """The images, each beside the evidence for the class looked for, with their captions."""
        if self.layer is None or not rows:
            return self.plain(rows)
        by_network: dict[TrainedNetwork, list[int]] = {}
        for row in rows:
            by_network.setdefault(self._evaluation.network_of(row), []).append(row)
        shown: dict[int, ShownImage] = {}
        for trained, own in by_network.items():
            for some in torch.split(torch.tensor(own, dtype=torch.int64), max(1, self._evaluation.data.batch_size)):
                images = self._images(some.tolist())
                classes = torch.from_numpy(self._evaluation.looked_for[some.numpy()]).to(trained.device)
                maps = grad_cam(trained.network, self.layer, trained.normalize(images), classes).cpu()
                for row, image, seen in zip(some.tolist(), as_rgb(images), maps, strict=True):
                    plain = picture(image)
                    overlay = embedded(laid_over(plain, seen))
                    shown[row] = ShownImage(embedded(plain), self._evaluation.caption(row), overlay)
        return [shown[row] for row in rows]


def laid_over(image: Image.Image, seen: Tensor) -> Image.Image:
    """Lay a map in [0, 1] over an RGB image in grey levels; small images are enlarged."""
    factor = -(-SMALLEST_SIDE // max(image.size))
    size = (image.width * factor, image.height * factor)
    levels = Image.fromarray(seen.numpy()).resize(size, Image.Resampling.BILINEAR)
    colours = colormaps["inferno"](np.asarray(levels).clip(0, 1))[..., :3]
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.NEAREST))[..., None] / 255
    return Image.fromarray(((0.4 * grey + 0.6 * colours) * 255).round().astype(np.uint8))
