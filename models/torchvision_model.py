"""Classification networks of torchvision by name."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.vision_transformer import interpolate_embeddings

from core.names import near_names
from models.head import BackboneAndHead, head_layers
from models.serialization.pretrained import load_weights, read_weights

# Networks that were trained with auxiliary heads, and the name prefixes of these heads' weights.
WITH_AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}

# Name prefixes of networks that accept images below torchvision's `min_size`; for others they are too small.
SMALLER_IMAGES = ("efficientnet_v2", "maxvit", "swin", "vit")


class TorchvisionModel(BackboneAndHead):
    """Any classification network of torchvision with a new head: `backbone`, then `head`.

    The head is torchvision's classifier: one linear layer in ResNet, three in VGG. Auxiliary heads (GoogLeNet,
    Inception) are removed. Pretrained weights of GoogLeNet and Inception expect images normalised with mean and std 0.5
    in each channel; those of the other networks expect ImageNet's mean and std.

    If images do not have 3 channels, the first convolution is initialised so that the variance of its output stays the
    same, and loaded weights are adapted: summed for 1 channel, else repeated and rescaled.

    Args:
        name: One of `torchvision.models.list_models(module=torchvision.models)`, for example `resnet18`.
        num_classes: Number of classes, K.
        in_channels: Number of image channels, C.
        image_size: Height and width of the images in pixels. Loaded position embeddings are interpolated to it.
        weights: Initial weights. A name in torchvision (`DEFAULT`, `IMAGENET1K_V1`): these weights, downloaded once. A
            path: a file with torchvision's state dict, or a checkpoint of this network, from which the backbone is
            loaded. None: random weights. New layers always start with random weights.
        head_sizes: Width of each hidden layer of a new head, which replaces the classifier from its first linear layer
            on. By default only the last layer of the classifier is new.
        head_activation: Non-linearity after each hidden layer of a new head.
        dropout: Probability that a unit of the head is zeroed in training. It applies to the head's dropout layers; a
            head without any gets one before its last layer. By default as in torchvision, and none in a new head.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ValueError: If there is no such network, it does not take images of this size, or the weights are missing or do
            not fit.
    """

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
        model = _build(name, image_size, num_classes)
        if in_channels != 3:
            _draw_first_convolution(model, in_channels)

        attribute = next(part for part in ("classifier", "fc", "heads", "head") if hasattr(model, part))
        layers: dict[str, nn.Module] = {attribute: getattr(model, attribute)}
        if isinstance(layers[attribute], nn.Sequential):
            layers = {f"{attribute}.{part}": layer for part, layer in layers[attribute].named_children()}
        trainable = {key: layer for key, layer in layers.items() if isinstance(layer, nn.Linear | nn.Conv2d)}
        if weights is not None:
            tensors = _read_weights(name, weights, model, image_size)
            new_layers = [*trainable][-1:] if head_sizes is None else [*trainable]
            if not any(key.startswith(f"{attribute}.") for key in tensors):  # the file has only a backbone
                new_layers = [attribute]
            skip = [f"{key}." for key in new_layers]
            load_weights(model, tensors, weights, name, (*skip, *WITH_AUXILIARY_HEADS.get(name, ())))

        self.backbone = model
        setattr(model, attribute, nn.Identity())
        head = list(layers.values())
        if name.startswith("squeezenet"):
            # SqueezeNet's forward flattens the features, but its head needs their height and width.
            self.backbone = nn.Sequential(OrderedDict(features=model.get_submodule("features")))
            head.append(nn.Flatten())
        if name in WITH_AUXILIARY_HEADS:
            head.insert(0, model.get_submodule("dropout"))
            model.dropout = nn.Identity()
        if head_sizes is not None:
            first = next(iter(trainable.values()))
            kept, width = head[: head.index(first)], first.weight.shape[1]
            if isinstance(first, nn.Conv2d):
                kept += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            head = kept + head_layers(width, head_sizes, num_classes, head_activation, dropout or 0.0)
        if dropout is not None:
            dropouts = [layer for layer in head if isinstance(layer, nn.Dropout)]
            for layer in dropouts:
                layer.p = dropout
            if not dropouts and dropout:
                head.insert(len(head) - 1, nn.Dropout(dropout))
        self.head: nn.Sequential = nn.Sequential(*head)


def _build(name: str, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    height, width = image_size
    arguments: dict[str, Any] = {"num_classes": num_classes}
    if name in WITH_AUXILIARY_HEADS:
        arguments |= {"aux_logits": False, "init_weights": True}
    if name.startswith("maxvit"):
        arguments["input_size"] = (height, width)
    if name.startswith("vit"):
        arguments["image_size"] = height
    min_height, min_width = get_model_weights(name).DEFAULT.meta["min_size"]
    try:
        if name.startswith("vit") and height != width:
            raise ValueError("they are not square")
        if not name.startswith(SMALLER_IMAGES) and (height < min_height or width < min_width):
            raise ValueError("no pixel of them would be left")
        return get_model(name, **arguments)
    except (AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".!")
        raise ValueError(
            f"{name} does not take {height}x{width} images: {reason}; give images of {min_height}x{min_width} "
            "or another network"
        ) from error


def _draw_first_convolution(model: nn.Module, in_channels: int) -> None:
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    channels, kernels = first.in_channels, first.weight.detach()
    shape = (len(kernels), in_channels, *kernels.shape[2:])
    drawn = torch.randn(shape, device=kernels.device) * kernels.std() * (channels / in_channels) ** 0.5
    first.in_channels, first.weight = in_channels, nn.Parameter(drawn)


def _read_weights(name: str, weights: str, model: nn.Module, image_size: tuple[int, int]) -> dict[str, Tensor]:
    published = get_model_weights(name)
    member = published.__members__.get(weights.removeprefix(f"{published.__name__}."))
    if member is None:
        tensors = read_weights(weights, [*published.__members__])
    elif (file := Path(torch.hub.get_dir(), "checkpoints", member.url.rpartition("/")[2])).is_file():
        tensors = read_weights(file)  # verifies the file; torch verifies it only on download
    else:
        try:
            tensors = dict(member.get_state_dict(check_hash=True, map_location="cpu", weights_only=True))
        except Exception as error:
            raise ValueError(
                f"The weights {weights} of {name} can be neither downloaded nor read ({getattr(error, 'reason', error)}"
                f"); fetch {member.url} by other means and put it in {torch.hub.get_dir()}/checkpoints, or give its "
                "path as weights"
            ) from error
    # The published files of DenseNet have dots in module names, which torch no longer allows.
    tensors = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key): tensors[key] for key in tensors}
    if "encoder.pos_embedding" in tensors and hasattr(model, "patch_size"):
        return interpolate_embeddings(image_size[0], model.patch_size, tensors)
    return tensors
