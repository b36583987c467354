"""The features of a split's images, in a plane and in TensorBoard's projector.

Shapes: `N` images, features of `D` numbers, `K` classes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from callbacks.tensorboard.image_grid import as_rgb
from core.durable_file import whole_folder
from core.names import escape_name
from core.user_error import UserError
from datamodules.loading.progress import progress
from scripts.inference.trained_network import TrainedNetwork
from scripts.report.chart import new_figure, picture_of

MOST_NAMES = 50  # number of classes up to which the picture has their names

PERPLEXITY = 30.0  # roughly the number of neighbours of each image, as in the paper; fewer for few images

SPRITE = 32  # side of an image in the projector, in pixels; the sheet of all images has at most 8192

MARKERS = "osv^D*Pdp"  # also differ between classes, for readers and prints without colours

# Colours for the colour-blind (Okabe and Ito, 2008), with a darker yellow for white paper.
OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7f00", "#000000")


@torch.no_grad()
def features_of(trained: TrainedNetwork, images: Tensor, batch_size: int) -> tuple[str | None, Tensor]:
    """Return the name of the last linear layer, and its inputs for images uint8 `[N, C, H, W]`, float32 `[N, D]`.

    The last layer is the one that runs last. If the network has no linear layer, return None and the logits.
    """
    network = trained.network
    names = {layer: name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    calls, parts = list[tuple[nn.Linear, Tensor]](), list[Tensor]()  # each layer that ran, with its input
    handles = [layer.register_forward_pre_hook(lambda layer, args: calls.append((layer, args[0]))) for layer in names]
    name = None
    with progress("Features", len(images)) as advance:
        for batch in torch.split(images, batch_size):
            calls.clear()
            features = network(trained.normalize(batch))
            if calls:
                layer, features = calls[-1]
                name = names[layer]
            parts.append(features.flatten(1).float().cpu())
            advance(len(batch))
    for handle in handles:
        handle.remove()
    return name, torch.cat(parts)


def t_sne(features: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Lay features `[N, D]` out in a plane, `[N, 2]`, so that neighbours stay neighbours.

    The sizes of clusters and the distances between them have no meaning.

    Source: L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", 2008.
    """
    from sklearn.manifold import TSNE

    if len(features) < 4:
        raise UserError(f"t-SNE needs at least 4 images, and there are {len(features)}; take another --split.")
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    init = "pca" if min(features.shape) >= 2 and features.std() > 0 else "random"
    places: NDArray[np.float32] = TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(features)
    return places


def embedding_picture(
    places: NDArray[np.float32], labels: NDArray[np.int64], class_names: Sequence[str], title: str
) -> Image.Image:
    """Draw a marker at the place of each image, in the colour and shape of its class."""
    figure = new_figure()
    axes = figure.subplots()
    present = np.unique(labels).tolist()
    for label in present:
        x, y = places[labels == label].T
        colour, marker = OKABE_ITO[label % len(OKABE_ITO)], MARKERS[label % len(MARKERS)]
        axes.scatter(x, y, s=14, color=colour, marker=marker, alpha=0.6, linewidths=0)
        if len(present) <= MOST_NAMES:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
            name = escape_name(class_names[label])
            axes.annotate(name, (np.median(x), np.median(y)), ha="center", va="center", bbox=box)
    axes.set(xticks=[], yticks=[], title=title)
    return picture_of(figure)


def write_projector(folder: Path, features: Tensor, labels: Tensor, class_names: Sequence[str], images: Tensor) -> None:
    """Write features, class names and images for TensorBoard's projector, replacing the folder atomically."""
    from torch.utils.tensorboard import SummaryWriter

    thumbnails = nn.functional.interpolate(as_rgb(images).float() / 255, (SPRITE, SPRITE), mode="area")
    names = [escape_name(class_names[label]) for label in labels.tolist()]
    with whole_folder(folder) as part, SummaryWriter(str(part)) as writer:
        writer.add_embedding(features, metadata=names, label_img=thumbnails, tag="features")
