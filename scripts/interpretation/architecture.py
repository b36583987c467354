"""The layers of a network: output shapes, parameters and multiply-adds."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scripts.inference.layers import layer_outputs
from scripts.report.table import Table


class Layer(NamedTuple):
    """A submodule that has parameters or multiply-adds of its own, or no submodules."""

    name: str
    kind: str  # name of its class
    shape: tuple[int, ...] | None  # of its output for one image; None unless the output is one tensor
    parameters: int  # without those of its submodules
    multiply_adds: int  # in matrix products and convolutions for one image, without those of its submodules


def layers_of(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Return the layers in the order of their construction."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    # FlopCounterMode does not count fused kernels of whole attention layers, nor, in torch 2.11, all other fused ones.
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            outputs = layer_outputs(network, torch.zeros(1, *image_shape, device=device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    root = type(network).__name__
    flops: dict[str, int] = {path: sum(counts.values()) for path, counts in counter.get_flop_counts().items()}

    def multiply_adds(name: str) -> int:
        return flops.get(f"{root}.{name}" if name else root, 0) // 2

    layers, counted = list[Layer](), set[nn.Parameter]()
    for name, module in network.named_modules():
        children = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
        own_multiply_adds = multiply_adds(name) - sum(map(multiply_adds, children))
        own_parameters = set(module.parameters(recurse=False)) - counted  # a shared parameter counts once
        counted |= own_parameters
        number = sum(parameter.numel() for parameter in own_parameters)
        if number or own_multiply_adds or not children:
            shape = tuple(outputs[name].shape[1:]) if name in outputs else None
            layers.append(Layer(name or root, type(module).__name__, shape, number, own_multiply_adds))
    return layers


def layer_table(layers: list[Layer]) -> Table:
    """Return a table of the layers and, in its last row, the sums."""
    parameters, multiply_adds = sum(layer.parameters for layer in layers), sum(layer.multiply_adds for layer in layers)
    rows = [
        [name, kind, "x".join(map(str, shape or ())), f"{parameters:,}", f"{multiply_adds:,}"]
        for name, kind, shape, parameters, multiply_adds in [*layers, Layer("all", "", None, parameters, multiply_adds)]
    ]
    return Table(["layer", "kind", "output", "parameters", "multiply-adds"], rows, frozenset({len(layers)}))
