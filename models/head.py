"""Networks of a backbone and a head, and the layers of heads."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn


class BackboneAndHead(nn.Module):
    """A network whose `backbone` maps images to features, and whose `head` maps features to logits."""

    # Values that replace constructor arguments when a checkpoint rebuilds the network: it needs no initial weights.
    rebuilt_with: ClassVar[dict[str, Any]] = {"weights": None}

    backbone: nn.Module
    head: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float `[B, K]`."""
        return self.head(self.backbone(images))


def head_layers(
    in_features: int,
    head_sizes: Sequence[int],
    num_classes: int,
    activation: type[nn.Module] = nn.ReLU,
    dropout: float = 0.0,
    batch_norm: bool = False,
) -> list[nn.Module]:
    """Return the linear layers from features to logits, with batch norm, activation and dropout between them."""
    check_sizes("hidden layers", head_sizes)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((in_features, *head_sizes)):
        layers.append(nn.Linear(fan_in, fan_out, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(fan_out))
        layers.append(activation())
        if dropout:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear((in_features, *head_sizes)[-1], num_classes))
    return layers


def check_sizes(name: str, sizes: Sequence[int]) -> None:
    """Raise ValueError if a layer or stage has less than one unit or channel."""
    if min(sizes, default=1) < 1:
        raise ValueError(f"{name} {list(sizes)} are not all at least 1; give whole numbers of at least 1")
