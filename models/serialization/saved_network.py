"""The network in a checkpoint, built again as a plain module."""

from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

from core.user_error import UserError
from models.serialization.checkpoint import CheckpointContent
from models.serialization.class_path import check_classes, known_classes

NETWORK = "network."  # begins the names of the network's weights in a checkpoint


def build_network(checkpoint: CheckpointContent, path: Path) -> nn.Module:
    """Build the network with its weights, in their number format, in evaluation mode, on the CPU."""
    arguments = saved_arguments(checkpoint, path)
    state = {
        name.removeprefix(NETWORK): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(NETWORK)
    }
    with known_classes(str(path)), _unbuildable(path):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(nn.Module, "network", fail_untyped=False, required=True)
        config = parser.parse_object({"network": arguments["network"]})
        check_classes(config, str(path))
        network: nn.Module = parser.instantiate_classes(config).network
        named = next(iter(network.named_parameters()), None)
        if named and named[0] in state:
            network.to(state[named[0]].dtype)  # of a run in bf16-true or 64-true
        if arguments.get("channels_last"):
            network.to(memory_format=torch.channels_last)
        network.load_state_dict(state)
    return network.eval()


def saved_arguments(
    checkpoint: CheckpointContent, path: Path, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The classifier's constructor arguments in a checkpoint, with those given in place of the saved ones."""
    arguments = {**checkpoint.get("hyper_parameters", {}), **(given or {})}
    if "network" not in arguments:
        raise UserError(
            f"{path} was saved around a ready-made network, whose arguments are not in it; give the network again, "
            "Classifier.load_from_checkpoint(path, network=..., optimizer=...), or train with kindling.fit."
        )
    return arguments


@contextmanager
def _unbuildable(path: Path) -> Iterator[None]:
    try:
        yield
    except (ArgumentError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"The network in {path} cannot be built again: {' '.join(str(error).split()).rstrip('. ')}; use the "
            "sources that it was trained with."
        ) from error
