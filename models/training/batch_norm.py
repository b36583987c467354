"""Batch norm layers, and running statistics for weights that were averaged after training."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def trained_batch_norms(module: nn.Module) -> list[BatchNorm]:
    """Return the batch norm layers in training mode that keep running statistics; frozen layers are left out."""
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    return [layer for layer in layers if layer.training and layer.track_running_stats]


@torch.no_grad()
def compute_statistics(module: nn.Module, layers: Sequence[BatchNorm], batches: Iterable[Tensor]) -> None:
    """Set running mean and variance of the layers to the plain average over the batches (Izmailov et al., 2018)."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # makes torch compute the plain average
    try:
        for images in batches:
            module(images)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
