"""Rebuild the network in a checkpoint, or the LightningModule that trained it."""

from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

from core.user_error import UserError
from models.serialization.checkpoint import CheckpointContent, read_checkpoint
from models.serialization.class_path import check_classes, known_classes

NETWORK = "network."  # prefix of the network's weights in a checkpoint


def build_network(checkpoint: CheckpointContent, path: Path) -> nn.Module:
    """Build the network with its weights, in their dtype, in evaluation mode, on the CPU."""
    arguments = saved_arguments(checkpoint, path)
    weights = checkpoint["state_dict"]
    state = {name.removeprefix(NETWORK): weights[name] for name in weights if name.startswith(NETWORK)}
    with known_classes(str(path)):
        try:
            parser = ArgumentParser(exit_on_error=False)
            parser.add_subclass_arguments(nn.Module, "network", fail_untyped=False, required=True)
            config = parser.parse_object({"network": arguments["network"]})
            check_classes(config, str(path))
            network: nn.Module = parser.instantiate_classes(config).network
            if arguments.get("channels_last"):
                network.to(memory_format=torch.channels_last)
            _load(network, state)
        except (ArgumentError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"The network in {path} cannot be built again: {' '.join(str(error).split()).rstrip('. ')}; use the "
                "sources that it was trained with."
            ) from error
    return network.eval()


def load_module(class_: type[Any], path: Path, replacements: Mapping[str, Any]) -> Any:
    """Build the LightningModule that wrote a checkpoint, on the CPU; `replacements` override its saved arguments."""
    checkpoint = read_checkpoint(path)
    arguments = saved_arguments(checkpoint, path, replacements)
    with known_classes(str(path), own=replacements):
        if arguments.pop("_instantiator", None):  # the command line built it
            from lightning.pytorch.cli import instantiate_module

            parser = ArgumentParser(exit_on_error=False)
            parser.add_class_arguments(class_, fail_untyped=False)
            check_classes(parser.parse_object(arguments), str(path))
            module = instantiate_module(class_, arguments)
        else:
            module = class_(**arguments)
        module.on_load_checkpoint(checkpoint)
        _load(module, checkpoint["state_dict"])
    return module


def saved_arguments(
    checkpoint: CheckpointContent, path: Path, replacements: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the classifier's constructor arguments in a checkpoint, overridden by `replacements`."""
    arguments = {**checkpoint.get("hyper_parameters", {}), **(replacements or {})}
    if "network" not in arguments:
        raise UserError(
            f"{path} was saved around a ready-made network, whose arguments are not in it; give the network again, "
            "Classifier.load_from_checkpoint(path, network=..., optimizer=...), or train with kindling.fit."
        )
    return arguments


def _load(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Convert the module to the dtype of the weights, which differs after a run in bf16-true or 64-true; load them."""
    first = next((name for name, _ in module.named_parameters()), "")
    if first in state:
        module.to(state[first].dtype)
    module.load_state_dict(state)
