"""Groups of parameters with different learning rates or weight decays."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

# Normalisation layers: all of their parameters are scales and shifts.
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)


def parameter_groups(
    module: nn.Module, *, decay_norms_and_biases: bool = True, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return the trained parameters in groups for an optimizer, each parameter once and in the module's order."""
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay is {layer_decay}; give a number above 0, up to 1")
    depths = _depths(module)
    weights = {parameter for layer in module.modules() for parameter in _weights(layer)}
    last = max(depths.values(), default=0)
    groups: dict[str, dict[str, Any]] = {}
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        name: list[str] = []
        options: dict[str, Any] = {}
        if layer_decay != 1:
            name.append(f"layer_{depths[parameter]}")
            options["lr_scale"] = layer_decay ** (last - depths[parameter])
        if not decay_norms_and_biases and parameter in weights:
            name.append("weights")
        elif not decay_norms_and_biases:
            name.append("norms_and_biases")
            options["weight_decay"] = 0.0
        group = groups.setdefault("_".join(name), {"name": "_".join(name), "params": [], **options})
        group["params"].append(parameter)
    return list(groups.values())


def make_scaled(make: Callable[..., LRScheduler], optimizer: Optimizer) -> LRScheduler:
    """Return the schedule of `make`, with each parameter group's learning rates multiplied by its `lr_scale`."""
    _scale(optimizer, "lr")
    scheduler = make(optimizer)
    if isinstance(scheduler, OneCycleLR):  # resets the rates of every group, as CyclicLR does
        _scale(optimizer, "lr", "initial_lr", "max_lr", "min_lr")
    elif isinstance(scheduler, CyclicLR):
        _scale(optimizer, "lr", "initial_lr")
        for rates in (scheduler.base_lrs, scheduler.max_lrs):
            rates[:] = [rate * group["lr_scale"] for rate, group in zip(rates, optimizer.param_groups, strict=True)]
    return scheduler


def _scale(optimizer: Optimizer, *rates: str) -> None:
    for group in optimizer.param_groups:
        for rate in rates:
            group[rate] *= group["lr_scale"]


def _depths(module: nn.Module) -> dict[nn.Parameter, int]:
    # For each parameter, the number of layers with weights before its own layer.
    depths: dict[nn.Parameter, int] = {}
    depth = -1
    for layer in module.modules():
        depth += bool(_weights(layer))
        for parameter in layer.parameters(recurse=False):
            depths.setdefault(parameter, max(depth, 0))
    return depths


def _weights(layer: nn.Module) -> list[nn.Parameter]:
    """Return a layer's matrices and kernels, without biases, tokens, channel scales and normalisation parameters.

    A vector may have more dimensions of size 1, as ConvNeXt's channel scales do. The kernel of a convolution with a
    single channel may have such a shape too, but its name is `weight`.
    """
    if isinstance(layer, NORMS):
        return []
    return [
        parameter
        for name, parameter in layer.named_parameters(recurse=False)
        if parameter.ndim > 1 and (name == "weight" or parameter.numel() > max(parameter.shape))
    ]
