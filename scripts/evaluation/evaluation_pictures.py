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
from scripts.report.page import embedded

SMALLEST_SIDE = 96  # pixels that an image with a map over it has at least


@dataclass(frozen=True)
class ShownImage:
    """An image on the page."""

    picture: Markup
    caption: Sequence[str]  # lines of plain text
    seen: Markup | None = None  # where in it the network looked


def grad_cam_layer(evaluation: Evaluation) -> str | None:
    """The layer that Grad-CAM looks into, if the network has one."""
    trained = evaluation.trained
    return last_maps(trained.network, trained.normalize(evaluation.image(0)))


def shown_image(evaluation: Evaluation, row: int, layer: str | None = None) -> ShownImage:
    """An image with its caption and, if a layer is given, beside it the evidence for the class that is looked for."""
    image, seen = evaluation.image(row), None
    plain = picture(as_rgb(image)[0])
    if layer is not None:
        trained = evaluation.network_of(row)
        classes = torch.tensor([evaluation.looked_for(row)], device=trained.device)
        (evidence,) = grad_cam(trained.network, layer, trained.normalize(image), classes).cpu()
        seen = embedded(laid_over(plain, evidence))
    return ShownImage(embedded(plain), evaluation.caption(row), seen)


def laid_over(image: Image.Image, seen: Tensor) -> Image.Image:
    """Lay a map in [0, 1] over an RGB image in grey levels; small images are enlarged."""
    factor = -(-SMALLEST_SIDE // max(image.size))
    size = (image.width * factor, image.height * factor)
    levels = Image.fromarray(seen.numpy()).resize(size, Image.Resampling.BILINEAR)
    colours = colormaps["inferno"](np.asarray(levels).clip(0, 1))[..., :3]
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.NEAREST))[..., None] / 255
    return Image.fromarray(((0.4 * grey + 0.6 * colours) * 255).round().astype(np.uint8))
