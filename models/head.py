"""Fully connected layers on a backbone's features."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def head_layers(
    in_features: int,
    head_sizes: Sequence[int],
    num_classes: int,
    activation: type[nn.Module] = nn.ReLU,
    dropout: float = 0.0,
) -> list[nn.Module]:
    """Linear layers, all but the last followed by activation and, where asked for, dropout.

    Args:
        in_features: Features of each image, F.
        head_sizes: Width of each hidden layer; none makes it one linear layer.
        num_classes: Classes, K.
        activation: The non-linearity after each hidden layer.
        dropout: Probability that a hidden unit is zeroed in training.

    Returns:
        Layers that map float `[B, F]` to logits float `[B, K]`, in turn.

    Raises:
        ValueError: If a layer would have no unit.
    """
    refuse_empty("hidden layers", head_sizes)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((in_features, *head_sizes)):
        layers += [nn.Linear(fan_in, fan_out), activation()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear((in_features, *head_sizes)[-1], num_classes))
    return layers


def refuse_empty(name: str, sizes: Sequence[int]) -> None:
    """Refuse layers or stages of nothing."""
    if min(sizes, default=1) < 1:
        raise ValueError(f"{name} {list(sizes)} are not all at least 1; give whole numbers that are")
