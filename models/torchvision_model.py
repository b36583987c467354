"""The classification networks of torchvision, by name."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.vision_transformer import interpolate_embeddings

from core.near_names import near_names
from models.head import head_layers
from models.serialization.pretrained import Weights, load_weights, read_weights

# Networks that were trained with further heads, and what the names of these heads' weights begin with.
WITH_AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}

# Beginnings of names: these take images below torchvision's `min_size`; the others have no pixel left of those.
SMALLER_IMAGES = ("efficientnet_v2", "maxvit", "swin", "vit")


class TorchvisionModel(nn.Module):
    """Any classification network of torchvision, its head replaced: `backbone`, then `head`.

    The head begins where torchvision's classifier begins: ResNet's one linear layer, or the three of VGG, whose
    backbone is its convolutions and the pooling after them. Auxiliary heads (GoogLeNet, Inception) are left out. These
    two take images normalised with mean and std 0.5 of each channel, the others take ImageNet's.

    A first convolution of other than 3 channels has, from scratch, kernels drawn so that its output has the same
    variance; from weights, their sum (1 channel), or copies in turn, rescaled.

    Args:
        name: One of `torchvision.models.list_models(module=torchvision.models)`, such as `resnet18`.
        num_classes: Classes, K.
        in_channels: Channels of the images, C.
        image_size: Height and width of the images in pixels. Position embeddings of other sizes are interpolated.
        weights: What training begins from: a name of torchvision's such as `DEFAULT` or `IMAGENET1K_V1`, which is
            downloaded once; a file, either torchvision's state dict or a checkpoint of the same network, of which the
            backbone is taken; or nothing. Layers that are new begin from scratch.
        head_sizes: Width of each hidden layer of a new head, in place of the classifier from its first linear layer
            on, what it normalises and pools before being kept. By default the classifier stays as it is, but for its
            last layer, which is new.
        head_activation: The non-linearity after each of them.
        dropout: Probability that a unit of the head is zeroed in training: in its dropout layers, or before its last
            layer if it has none, and after each hidden layer of a new head. By default as torchvision has it, and
            none in a new head.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ValueError: If there is no such network, it does not take images of this size, or the weights cannot be had or
            do not fit.
    """

    rebuilt_with: ClassVar[dict[str, Any]] = {"weights": None}
    """Arguments that only say what training begins from, and their values where a checkpoint's weights follow."""

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_channels: int = 3,
        image_size: tuple[int, int] = (224, 224),
        weights: str | None = None,
        head_sizes: Sequence[int] | None = None,
        head_activation: type[nn.Module] = nn.ReLU,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        names = list_models(module=torchvision.models)
        if name not in names:
            raise ValueError(f"torchvision has no classification network {name}; {near_names(name, names)}")
        loaded = None if weights is None else _find_weights(name, weights)
        model = _build(name, image_size, num_classes)
        if in_channels != 3:
            _draw_first_convolution(model, in_channels)

        attribute = next(part for part in ("classifier", "fc", "heads", "head") if hasattr(model, part))
        classifier = getattr(model, attribute)
        parts = classifier.named_children() if isinstance(classifier, nn.Sequential) else ()
        layers: dict[str, nn.Module] = {f"{attribute}.{part}": layer for part, layer in parts}
        layers = layers or {attribute: classifier}
        learnt = {key: layer for key, layer in layers.items() if isinstance(layer, nn.Linear | nn.Conv2d)}
        if loaded is not None:
            new = layers if loaded.backbone_only else learnt if head_sizes is not None else [*learnt][-1:]
            skip = [f"{key}." for key in new]
            _match(loaded, model, image_size)
            load_weights(model, loaded, name, (*skip, *WITH_AUXILIARY_HEADS.get(name, ())))

        self.backbone: nn.Module = model
        setattr(model, attribute, nn.Identity())
        head = list(layers.values())
        if name.startswith("squeezenet"):
            # Its own forward flattens whatever comes out, which would hide the pixels from the head.
            self.backbone = nn.Sequential(OrderedDict(features=model.get_submodule("features")))
            head.append(nn.Flatten())
        if name in WITH_AUXILIARY_HEADS:
            head.insert(0, model.get_submodule("dropout"))
            model.dropout = nn.Identity()
        if head_sizes is not None:
            entry = next(iter(learnt.values()))
            kept, width = head[: head.index(entry)], entry.weight.shape[1]
            if isinstance(entry, nn.Conv2d):
                kept += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            head = kept + head_layers(width, head_sizes, num_classes, head_activation, dropout or 0.0)
        if dropout is not None:
            dropouts = [layer for layer in head if isinstance(layer, nn.Dropout)]
            for layer in dropouts:
                layer.p = dropout
            if not dropouts and dropout:
                head.insert(len(head) - 1, nn.Dropout(dropout))
        self.head = nn.Sequential(*head)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each class."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


def _build(name: str, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    """The network from scratch, for images of 3 channels."""
    height, width = image_size
    arguments: dict[str, Any] = {"num_classes": num_classes}
    if name in WITH_AUXILIARY_HEADS:
        arguments |= {"aux_logits": False, "init_weights": True}
    if name.startswith("maxvit"):
        arguments["input_size"] = (height, width)
    if name.startswith("vit"):
        if height != width:
            raise ValueError(f"{name} takes square images alone, not {height}x{width}; give another image_size")
        arguments["image_size"] = height
    smallest = get_model_weights(name).DEFAULT.meta["min_size"]
    if not name.startswith(SMALLER_IMAGES) and (height < smallest[0] or width < smallest[1]):
        raise ValueError(
            f"{name} leaves no pixel of {height}x{width} images; give images of at least {smallest[0]}x{smallest[1]} "
            "or another network"
        )
    try:
        model: nn.Module = get_model(name, **arguments)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"{name} does not take {height}x{width} images: {str(error).splitlines()[0].rstrip('.!')}; give images of "
            f"{smallest[0]}x{smallest[1]} or another network"
        ) from error
    return model


def _draw_first_convolution(model: nn.Module, in_channels: int) -> None:
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    channels, kernels = first.in_channels, first.weight.detach()
    shape = (len(kernels), in_channels, *kernels.shape[2:])
    drawn = torch.randn(shape, device=kernels.device) * kernels.std() * (channels / in_channels) ** 0.5
    first.in_channels, first.weight = in_channels, nn.Parameter(drawn)


def _find_weights(name: str, weights: str) -> Weights:
    """The weights of that name, or in that file."""
    known = get_model_weights(name)
    member = weights.removeprefix(f"{known.__name__}.")
    if member not in known.__members__:
        if not Path(weights).is_file():
            raise ValueError(
                f"The weights {weights} are neither a file nor a name that torchvision has for {name}; give a file, "
                f"{', '.join(known.__members__)} or null"
            )
        return read_weights(weights)
    url = known[member].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if file.is_file():
        return read_weights(file)
    try:
        tensors = known[member].get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        place = Path("~", file.relative_to(Path.home())) if file.is_relative_to(Path.home()) else file
        raise ValueError(
            f"The weights {weights} of {name} cannot be downloaded ({reason}); fetch {url} by other means and put it "
            f"at {place}, or give its path as weights"
        ) from error
    return Weights(dict(tensors), member)


def _match(weights: Weights, model: nn.Module, image_size: tuple[int, int]) -> None:
    """Bring names and positions to those of the network."""
    # The published files of DenseNet carry names from before module names could hold no dot.
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    weights.tensors = {old.sub(r"\1\2", key): value for key, value in weights.tensors.items()}
    positions = weights.tensors.get("encoder.pos_embedding")
    if positions is not None and hasattr(model, "patch_size"):
        weights.tensors = interpolate_embeddings(image_size[0], model.patch_size, weights.tensors)
