"""Networks of timm (Wightman, 2019) by name; needs the optional extra `pip install -e '.[timm]'`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from core.names import near_names
from models.head import BackboneAndHead, head_layers
from models.serialization.pretrained import load_weights, read_weights


class TimmModel(BackboneAndHead):
    """Any network of timm with a new head: `backbone` up to the pooled features, then `head`.

    Args:
        name: One of `timm.list_models()`, with or without the tag of its weights, for example
            `mobilenetv3_small_100.lamb_in1k`.
        num_classes: Number of classes, K.
        in_channels: Number of image channels, C. Loaded weights of the first convolution are adapted to it.
        image_size: Height and width of the images in pixels; matters only for networks with a fixed input size.
        weights: Initial weights of the backbone. `DEFAULT`: the weights of the name's tag, or else timm's first. A tag,
            for example `lamb_in1k`: these weights. Both are downloaded once. A path: a file of timm
            (`model.safetensors`, or a state dict from `torch.save`), or a checkpoint of this network, from which the
            backbone is loaded. None: random weights. The head always starts with random weights.
        head_sizes: Width of each hidden layer of the head.
        head_activation: Non-linearity after each hidden layer.
        dropout: Probability that a feature, or a hidden unit of the head, is zeroed in training.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ModuleNotFoundError: If timm is not installed.
        ValueError: If there is no such network, or the weights are missing or do not fit.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_channels: int = 3,
        image_size: tuple[int, int] = (224, 224),
        weights: str | None = None,
        head_sizes: Sequence[int] = (),
        head_activation: type[nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone = _build(name, in_channels, image_size, weights)
        layers = head_layers(backbone.head_hidden_size, head_sizes, num_classes, head_activation, dropout)
        self.head: nn.Sequential = nn.Sequential(*([nn.Dropout(dropout)] if dropout else []), *layers)


def _build(name: str, in_channels: int, image_size: tuple[int, int], weights: str | None) -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "models.timm_model.TimmModel needs timm, which is not installed; run pip install -e '.[timm]'", name="timm"
        ) from error
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = near_names(architecture, timm.list_models(), otherwise="timm.list_models() gives all names")
        raise ValueError(f"timm has no network {name}; {near}")
    tags = [full_name.partition(".")[2] for full_name in timm.list_pretrained(f"{architecture}.*")]
    if tag not in ("", *tags):
        raise ValueError(f"timm has no weights {name}; give {architecture} and one of {', '.join(tags)} after a dot")
    if weights in tags:
        name = f"{architecture}.{weights}"
    names = ["DEFAULT", *tags] if tags else []
    pretrained = timm.get_pretrained_cfg(name)
    arguments: dict[str, Any] = {"in_chans": in_channels}
    if pretrained is not None and pretrained.fixed_input_size:
        arguments["img_size"] = tuple(image_size)
    try:
        model = timm.create_model(name, num_classes=0, pretrained=weights in names, **arguments)
    except OSError as error:
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(HF_HUB_CACHE) / f"models--{pretrained.hf_hub_id.replace('/', '--')}"
        raise ValueError(
            f"The weights of {name} cannot be downloaded; run `hf download {pretrained.hf_hub_id}` where there is a "
            f"network and put the folder that it makes at {folder}, or give its model.safetensors as weights"
        ) from error
    if weights is not None and weights not in names:
        head = timm.create_model(name, **arguments).state_dict().keys() - model.state_dict().keys()
        load_weights(model, read_weights(weights, names), weights, name, [*head])
    return model
