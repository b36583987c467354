"""The layers of a network: output shapes, parameters and multiply-adds."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scripts.inference.layers import layer_outputs
from scripts.report.table import Table


@dataclass(frozen=True)
class Layer:
    """A submodule with parameters or multiply-adds of its own, or without submodules."""

    name: str
    kind: str  # its class
    shape: tuple[int, ...] | None  # of its output for an image; None if that is not one tensor
    parameters: int
    multiply_adds: int  # of its matrix products and convolutions, for an image


def layers_of(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """List the layers, in the order in which the network has them."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    # Fused kernels for whole attention layers are not counted, and torch 2.11 does not count all of those within them.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            outputs = layer_outputs(network, torch.zeros(1, *image_shape, device=device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    root = type(network).__name__
    counts: dict[str, int] = {place: sum(flops.values()) // 2 for place, flops in counter.get_flop_counts().items()}

    def all_within(name: str) -> int:
        return counts.get(f"{root}.{name}" if name else root, 0)

    layers, seen = [], set()
    for name, module in network.named_modules():
        within = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
        own = all_within(name) - sum(map(all_within, within))
        fresh = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in seen]
        seen |= set(map(id, fresh))
        numbers = sum(parameter.numel() for parameter in fresh)
        if within and not numbers and not own:
            continue
        shape = tuple(outputs[name].shape[1:]) if name in outputs else None
        layers.append(Layer(name or root, type(module).__name__, shape, numbers, own))
    return layers


def layer_table(layers: list[Layer]) -> Table:
    """A table of the layers with their sums."""
    sums = sum(layer.parameters for layer in layers), sum(layer.multiply_adds for layer in layers)
    numbers = [*((layer.parameters, layer.multiply_adds) for layer in layers), sums]
    names = [*([layer.name, layer.kind, "x".join(map(str, layer.shape or ()))] for layer in layers), ["all", "", ""]]
    rows = [[*name, *(f"{number:,}" for number in both)] for name, both in zip(names, numbers, strict=True)]
    return Table(["layer", "kind", "output", "parameters", "multiply-adds"], rows, frozenset({len(layers)}))
