"""The running statistics of batch norm, computed anew for weights that were not trained with them."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def trained_batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The layers of batch norm that keep statistics and are in training mode, which those that are frozen are not."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats
    ]


@torch.no_grad()
def compute_statistics(module: nn.Module, layers: Sequence[_BatchNorm], batches: Iterable[Tensor]) -> None:
    """Let layers of batch norm take mean and variance from the equal average of all batches (Izmailov et al., 2018).

    Args:
        module: What they are in, applied to each batch.
        layers: The layers, in training mode.
        batches: Images, float `[B, C, H, W]`, as they are in training.
    """
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the equal average
    try:
        for images in batches:
            module(images)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
