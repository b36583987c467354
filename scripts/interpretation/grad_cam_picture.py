"""Where a network saw evidence for a class, as a picture.

Shapes: an image of `C` channels, `H` rows and `W` columns.
"""

import torch
from PIL import Image
from torch import Tensor

from callbacks.tensorboard.image_grid import as_rgb
from core.near_names import near_names
from core.user_error import UserError
from scripts.inference.layers import grad_cam, last_maps
from scripts.inference.trained_network import TrainedNetwork
from scripts.interpretation.layer_pictures import attribution_picture


def grad_cam_picture(
    trained: TrainedNetwork, pixels: Tensor, class_name: str | None = None, layer: str | None = None
) -> Image.Image:
    """Draw an image beside where a layer saw evidence for a class (Grad-CAM).

    Args:
        trained: The network.
        pixels: The image, uint8 `[1, C, H, W]`.
        class_name: The class asked about, by default that predicted.
        layer: The layer's name, by default that of the last convolution.
    """
    image = trained.normalize(pixels)
    layer = layer or last_maps(trained.network, image)
    if layer is None:
        raise UserError(
            f"{type(trained.network).__name__} has no convolution that gives maps, which Grad-CAM needs; use "
            "saliency or occlusion."
        )
    label, title = class_asked_for(trained, image, class_name)
    seen = grad_cam(trained.network, layer, image, label)[0]
    name = f"Grad-CAM at {layer}" if seen.any() else f"Grad-CAM at {layer}: nothing speaks for it"
    return attribution_picture(as_rgb(pixels)[0], [(name, seen)], title)


def class_asked_for(trained: TrainedNetwork, image: Tensor, asked: str | None) -> tuple[Tensor, str]:
    """The class asked about, int64 `[1]`, by default that predicted, and its name with its probability."""
    names = trained.class_names
    with torch.no_grad():
        probabilities = trained.network(image).softmax(dim=1)[0]
    label = predicted = int(probabilities.argmax())
    title = f"predicted {names[label]} ({float(probabilities[label]):.1%})"
    if asked is not None:
        if asked not in names:
            raise UserError(f"--class is {asked}, which {trained.path} does not know; {near_names(asked, names)}")
        label = names.index(asked)
    if label != predicted:
        title = f"what speaks for {names[label]} ({float(probabilities[label]):.1%}), {title}"
    return torch.tensor([label], device=image.device), title
