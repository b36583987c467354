"""Trace a network for its graph in TensorBoard."""

import copy
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from core.breakpoints import skipping_breakpoints

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def write_graph(writer: "SummaryWriter", network: nn.Module, preprocessing: Mapping[str, Any]) -> None:
    """Write the graph of a network, unless it cannot be traced."""
    if (traced := trace(network, preprocessing)) is not None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            writer.add_graph(*traced)


def trace(network: nn.Module, preprocessing: Mapping[str, Any]) -> tuple[nn.Module, Tensor] | None:
    """Return a traced copy of a network and its dummy image `[1, C, H, W]`, or None if the network cannot be traced.

    The copy has its own modes, running statistics and compilation; tracing does not change the weights, so they are
    shared.
    """
    weights = {id(parameter): parameter for parameter in network.parameters()}
    with suppress(Exception), warnings.catch_warnings(), skipping_breakpoints(), isolate_rng(), torch.no_grad():
        warnings.simplefilter("ignore")  # branches that depend on the image, and the deprecation of tracing
        copied = copy.deepcopy(network, dict(weights)).eval()
        first = next((weight for weight in weights.values() if weight.is_floating_point()), torch.empty(0))
        image = first.new_zeros(1, preprocessing["channels"], *preprocessing["image_size"])
        traced: nn.Module = torch.jit.trace(copied, image, check_trace=False)  # type: ignore[no-untyped-call]
        return traced, image
    return None
