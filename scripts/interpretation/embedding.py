"""Where a network puts the images of a split before it names them.

Shapes: `N` images, features of `D` numbers, `K` classes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.manifold import TSNE
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from callbacks.tensorboard.image_grid import as_rgb
from core.names import escape_name
from core.whole_folder import whole_folder
from models.classifier import Classifier
from scripts.inference.layers import layer_outputs
from scripts.inference.shown_image import as_network_sees
from scripts.report.figure import new_figure, picture_of

MOST_LEGENDS = 20  # classes up to which there is a legend; the names of up to `MOST_NAMES` stand in the picture

MOST_NAMES = 50

PERPLEXITY = 30.0  # how many neighbours each image has, roughly, as in the paper; fewer where there are few images

MARKERS = "osv^D*Pdp"  # classes differ by these too, so that they are told apart without colours

# Colours that the colour-blind tell apart (Okabe and Ito, 2008), the yellow darker, for white paper.
OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7f00", "#000000")


def last_linear(network: nn.Module, image: Tensor) -> str | None:
    """The name of the last linear layer that an image goes through, whose input are the features.

    Args:
        network: In evaluation mode.
        image: Normalised, float32 `[1, C, H, W]`.

    Returns:
        None if there is none.
    """
    modules = dict(network.named_modules())
    names = [name for name in layer_outputs(network, image) if isinstance(modules[name], nn.Linear)]
    return names[-1] if names else None


@torch.no_grad()
def features_of(classifier: Classifier, images: Tensor, layer: str | None) -> Tensor:
    """What goes into a layer, flattened.

    Args:
        classifier: In evaluation mode.
        images: uint8 `[B, C, H, W]`.
        layer: Its name; by default the logits are taken.

    Returns:
        float32 `[B, D]`, on the CPU.
    """
    kept: list[Tensor] = []
    module = classifier.network if layer is None else classifier.network.get_submodule(layer)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0])

    handle = module.register_forward_pre_hook(before)
    try:
        logits = classifier.network(as_network_sees(images, classifier))
    finally:
        handle.remove()
    return (logits if layer is None else kept[-1]).flatten(1).float().cpu()


def t_sne(features: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Lay features out in a plane so that neighbours stay neighbours.

    Source: L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", 2008; by scikit-learn.

    Args:
        features: `[N, D]`.
        seed: Of the layout.

    Returns:
        `[N, 2]`; distances between groups and their sizes mean nothing.

    Raises:
        ValueError: If there are fewer than four images.
    """
    if len(features) < 4:
        raise ValueError(f"there are {len(features)} images, and t-SNE needs at least 4")
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    initial = "pca" if min(features.shape) >= 2 and features.std() > 0 else "random"
    found: NDArray[np.float32] = TSNE(perplexity=perplexity, init=initial, random_state=seed).fit_transform(features)
    return found


def embedding_picture(
    places: NDArray[np.float32], labels: NDArray[np.int64], class_names: Sequence[str], title: str
) -> Image.Image:
    """Draw the plane, a mark for each image in the colour and shape of its class.

    Args:
        places: `[N, 2]`.
        labels: int64 `[N]`.
        class_names: `K` names.
        title: Above it.

    Returns:
        RGB.
    """
    figure = new_figure()
    axes = figure.subplots()
    names = [escape_name(name) for name in class_names]
    present = np.unique(labels).tolist()
    for label in present:
        x, y = places[labels == label].T
        colour, marker = OKABE_ITO[label % len(OKABE_ITO)], MARKERS[label % len(MARKERS)]
        axes.scatter(x, y, s=14, color=colour, marker=marker, alpha=0.6, linewidths=0, label=names[label])
        if len(present) <= MOST_NAMES:
            frame = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
            axes.annotate(names[label], (np.median(x), np.median(y)), ha="center", va="center", bbox=frame)
    if len(present) <= MOST_LEGENDS:
        figure.legend(loc="outside right upper", markerscale=1.5)
    axes.set(xticks=[], yticks=[], title=title)
    return picture_of(figure)


def write_projector(
    folder: Path, features: Tensor, labels: NDArray[np.int64], class_names: Sequence[str], images: Tensor
) -> None:
    """Write features, classes and images for TensorBoard's projector, in place of what is there.

    Args:
        folder: Where to; it is theirs alone.
        features: float32 `[N, D]`.
        labels: int64 `[N]`.
        class_names: `K` names.
        images: uint8 `[N, C, H, W]`.
    """
    thumbnails = as_rgb(images).float() / 255
    side = 32  # of a sprite, of which TensorBoard takes 8192 pixels a side at most
    thumbnails = torch.nn.functional.interpolate(thumbnails, (side, side), mode="area")
    with whole_folder(folder) as part, SummaryWriter(str(part)) as writer:
        writer.add_embedding(
            features,
            metadata=[escape_name(class_names[label]) for label in labels.tolist()],
            label_img=thumbnails,
            tag="features",
        )
