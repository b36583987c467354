"""The networks of timm (Wightman, 2019), by name; an optional extra: `pip install -e '.[timm]'`."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from models.head import head_layers


class TimmModel(nn.Module):
    """Any network of timm up to its pooled features, then a head of our own: `backbone`, then `head`.

    Args:
        name: One of `timm.list_models()`, with or without the tag of its weights, such as
            `mobilenetv3_small_100.lamb_in1k`.
        num_classes: Classes, K.
        in_channels: Channels of the images, C; of pretrained weights the first kernels are summed or repeated.
        image_size: Height and width of the images in pixels, for networks that are built for one size.
        pretrained: Whether training begins from the weights that timm names, which are downloaded once.
        head_sizes: Width of each hidden layer of the head.
        head_activation: The non-linearity after each of them.
        dropout: Probability that a unit of the head is zeroed in training: of the features, and of each hidden layer.

    Shape:
        float `[B, C, H, W]` to logits float `[B, K]`.

    Raises:
        ModuleNotFoundError: If timm is not installed.
        ValueError: If there is no such network, or its weights cannot be had.
    """

    rebuilt_with: ClassVar[dict[str, Any]] = {"pretrained": False}
    """Arguments that only say what training begins from, and their values where a checkpoint's weights follow."""

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_channels: int = 3,
        image_size: tuple[int, int] = (224, 224),
        pretrained: bool = False,
        head_sizes: Sequence[int] = (),
        head_activation: type[nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        backbone: Any = _build(name, in_channels, image_size, pretrained)
        self.backbone: nn.Module = backbone
        layers = head_layers(backbone.head_hidden_size, head_sizes, num_classes, head_activation, dropout)
        self.head = nn.Sequential(*([nn.Dropout(dropout)] if dropout else []), *layers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each class."""
        logits: Tensor = self.head(self.backbone(images))
        return logits


def _build(name: str, in_channels: int, image_size: tuple[int, int], pretrained: bool) -> nn.Module:
    """The network up to its pooled features."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "models.timm_model.TimmModel needs timm, which is not installed; run pip install -e '.[timm]'", name="timm"
        ) from error
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() gives all names"
        raise ValueError(f"timm has no network {name}; {hint}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if pretrained and not tagged:
        raise ValueError(f"timm has no pretrained weights of {name}; use pretrained false or another network")
    if name != architecture and name not in tagged:
        raise ValueError(f"timm has no weights {name}; give one of {', '.join([architecture, *tagged])}")
    known = timm.get_pretrained_cfg(name)
    arguments: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0, "pretrained": pretrained}
    if known is not None and known.fixed_input_size:
        arguments["img_size"] = tuple(image_size)
    try:
        model: nn.Module = timm.create_model(name, **arguments)
    except OSError as error:
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(HF_HUB_CACHE) / f"models--{known.hf_hub_id.replace('/', '--')}"
        raise ValueError(
            f"The weights of {name} cannot be downloaded; run `hf download {known.hf_hub_id}` where there is a network "
            f"and put the folder that it makes at {folder}, or use pretrained false"
        ) from error
    return model
