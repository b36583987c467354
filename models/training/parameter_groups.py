"""Which parameters an optimizer treats alike."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Layers whose parameters, of whatever shape, are scales and shifts."""


def parameter_groups(
    module: nn.Module,
    *,
    decay_norms_and_biases: bool = True,
    layer_decay: float = 1.0,
    is_trained: Callable[[str], bool] = lambda name: True,
) -> list[dict[str, Any]]:
    """The parameters as an optimizer takes them, each once and in the order of the module.

    Args:
        module: The network.
        decay_norms_and_biases: Whether the optimizer's weight decay holds for all. Without, it is 0 for parameters of
            normalisation layers, biases, scales and tokens, which decay does not regularise (He et al., 2019, "Bag of
            Tricks for Image Classification"). Position embeddings count as weights.
        layer_decay: By what a layer's learning rate is multiplied for each layer that comes after it (Clark et al.,
            2020, "ELECTRA"). A layer is a weight matrix or convolution with what follows it up to the next, in the
            order in which the module has them.
        is_trained: Whether the parameter of a name is trained at some time; others, such as those that are frozen for
            good, are left out. A parameter without a gradient is passed over by an optimizer until it has one.

    Returns:
        One group without a name; or several, named by what is theirs (`weights`, `norms_and_biases`, `layer_3`), those
        of norms and biases with `weight_decay` 0, those of layers with `lr_scale`, what the learning rate is to be
        multiplied by. A group without parameters is left out.

    Raises:
        ValueError: If layer_decay is outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay is {layer_decay}; give a number above 0, up to 1")
    trained = [parameter for name, parameter in module.named_parameters() if is_trained(name)]
    if decay_norms_and_biases and layer_decay == 1:
        return [{"params": trained}]
    depths = _depths(module)
    matrices = {parameter for layer in module.modules() for parameter in _matrices(layer)}
    last = max(depths.values(), default=0)
    groups: dict[str, dict[str, Any]] = {}
    for parameter in trained:
        spared = not decay_norms_and_biases and parameter not in matrices
        kind = [] if decay_norms_and_biases else ["norms_and_biases" if spared else "weights"]
        depth = [] if layer_decay == 1 else [f"layer_{depths[parameter]}"]
        name = "_".join((*depth, *kind))
        group = groups.setdefault(name, {"name": name, "params": []})
        group["params"].append(parameter)
        if spared:
            group["weight_decay"] = 0.0
        if depth:
            group["lr_scale"] = layer_decay ** (last - depths[parameter])
    return list(groups.values())


def scale_rates(optimizer: Optimizer, *rates: str) -> None:
    """Multiply the learning rates of each group by its `lr_scale`, if it has one.

    Args:
        optimizer: Made from `parameter_groups`.
        rates: What the rates are called in a group, such as `lr`.
    """
    for group in optimizer.param_groups:
        for rate in rates:
            group[rate] *= group.get("lr_scale", 1.0)


def scale_schedule(scheduler: LRScheduler) -> None:
    """Do so in a schedule of those that give all groups the same rates.

    Args:
        scheduler: Any, just made.
    """
    if isinstance(scheduler, OneCycleLR):
        scale_rates(scheduler.optimizer, "lr", "initial_lr", "max_lr", "min_lr")
    elif isinstance(scheduler, CyclicLR):
        scale_rates(scheduler.optimizer, "lr", "initial_lr")
        scales = [group.get("lr_scale", 1.0) for group in scheduler.optimizer.param_groups]
        for rates in (scheduler.base_lrs, scheduler.max_lrs):
            rates[:] = [rate * scale for rate, scale in zip(rates, scales, strict=True)]


def _depths(module: nn.Module) -> dict[nn.Parameter, int]:
    """How many layers come before each parameter's."""
    depths: dict[nn.Parameter, int] = {}
    depth = -1
    for layer in module.modules():
        depth += bool(_matrices(layer))
        for parameter in layer.parameters(recurse=False):
            depths.setdefault(parameter, max(depth, 0))
    return depths


def _matrices(layer: nn.Module) -> list[nn.Parameter]:
    """A layer's own parameters that are neither norms' nor vectors: biases, tokens, scales of channels.

    A vector may have dimensions of size 1 besides, as ConvNeXt's scales do, if it is not called a weight, which a
    convolution of a single channel may be.
    """
    if isinstance(layer, NORMS):
        return []
    return [
        parameter
        for name, parameter in layer.named_parameters(recurse=False)
        if parameter.ndim > 1 and (name == "weight" or parameter.numel() > max(parameter.shape))
    ]
