"""Weights from a file, for the network that they were trained in or one with another first and last layer."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from core.names import some_of
from models.serialization.checksums import damaged_part

BACKBONE = "network.backbone."  # begins the names of the backbone's weights in a checkpoint

# DistributedDataParallel and torch.compile put these before the name of each weight, in either order.
WRAPPERS = ("module.", "_orig_mod.", "module.")


@dataclass
class Weights:
    """Tensors by name, as in a module's state dict."""

    tensors: dict[str, Tensor]
    source: str  # their name in a message
    backbone_only: bool = False  # whether they lack a head


def read_weights(path: str | Path) -> Weights:
    """Read a state dict, or the backbone in a checkpoint of `scripts/train.py`; no code is run."""
    mapped = is_zipfile(path)  # so only the backbone of a checkpoint is read
    read: Callable[..., Any] = partial(torch.load, map_location="cpu", weights_only=True, mmap=mapped)
    if Path(path).suffix == ".safetensors":
        read = load_file
    try:
        if damaged := damaged_part(path):
            raise ValueError(f"{damaged} is not what was written")
        with warnings.catch_warnings(action="ignore"):  # about a file that is refused below
            content = read(path)
    except Exception as error:
        raise ValueError(
            f"The weights {path} cannot be read: the file is missing, truncated, damaged or holds code; give a state "
            "dict that torch.save has written"
        ) from error
    if isinstance(content, dict) and "class_names" in content and "state_dict" in content:
        state = content["state_dict"]
        tensors = {name.removeprefix(BACKBONE): state[name] for name in state if name.startswith(BACKBONE)}
        if not tensors:
            raise ValueError(
                f"The checkpoint {path} is of a network that has no backbone to take over; give one of a network "
                "that has"
            )
        return Weights(tensors, str(path), backbone_only=True)
    if not isinstance(content, dict) or not content or not all(map(_is_named_tensor, content.items())):
        raise ValueError(
            f"The weights {path} are no state dict; give a mapping of names to tensors, such as "
            "torch.save(network.state_dict(), path) writes"
        )
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in content):
            content = {name.removeprefix(wrapper): value for name, value in content.items()}
    return Weights(dict(content), str(path))


def _is_named_tensor(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def load_weights(module: nn.Module, weights: Weights, name: str, skip: Sequence[str] = ()) -> None:
    """Load weights into a module, whose first convolution may have another number of channels."""
    own = module.state_dict()
    expected = {key: value for key, value in own.items() if not key.startswith(tuple(skip))}
    given = {key: value for key, value in weights.tensors.items() if not key.startswith(tuple(skip))}
    for layer, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            if (kernels := given.get(f"{layer}.weight")) is not None and kernels.dim() == 4:
                given[f"{layer}.weight"] = adapt_channels(kernels, child.in_channels)
            break
    # Files from before PyTorch 0.4.1 do not count batches; nothing depends on the count.
    counts = {key: own[key] for key in expected if key not in given and key.endswith("num_batches_tracked")}
    if fault := misfit(expected, {**counts, **given}):
        raise ValueError(f"The weights {weights.source} do not fit {name}: {fault}; give weights of {name}, or null")
    own.update(given)
    module.load_state_dict(own)


def misfit(expected: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """How many weights are missing, unexpected or of another shape, with the first names of each; empty if none."""
    kinds = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": [
            f"{key} {list(given[key].shape)} for {list(value.shape)}"
            for key, value in expected.items()
            if isinstance(value, Tensor) and key in given and given[key].shape != value.shape
        ],
    }
    return "; ".join(f"{len(keys)} {kind} ({some_of(keys, 3)})" for kind, keys in kinds.items() if keys)


def adapt_channels(kernels: Tensor, in_channels: int) -> Tensor:
    """Kernels for another number of channels, with the same output for an image of equal channels.

    For one channel they are summed: a grey image is a colour image of equal channels. For any other number they are
    repeated in turn and scaled by the old number of channels over the new: `[O, C, h, w]` to `[O, in_channels, h, w]`.

    Example:
        >>> adapt_channels(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1), 1).flatten().tolist()
        [6.0]
        >>> adapt_channels(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1), 6).flatten().tolist()
        [0.5, 1.0, 1.5, 0.5, 1.0, 1.5]
    """
    channels = kernels.shape[1]
    if in_channels == channels:
        return kernels
    if in_channels == 1:
        return kernels.sum(dim=1, keepdim=True)
    return kernels[:, torch.arange(in_channels) % channels] * (channels / in_channels)
