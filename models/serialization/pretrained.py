"""Weights from a file, for the network that they were trained in or one with another first and last layer."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from core.names import some_of
from models.serialization.checksums import damaged_part

BACKBONE = "network.backbone."  # begins the names of the backbone's weights in a checkpoint

# DistributedDataParallel and torch.compile put these before the name of each weight, in either order.
WRAPPERS = ("module.", "_orig_mod.", "module.")


def read_weights(path: str | Path, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Read a state dict, or the backbone in a checkpoint of `scripts/train.py`; no code is run.

    A message for a file that cannot be read gives the names that weights could have instead.
    """
    try:
        if damaged := damaged_part(path):
            raise ValueError(f"{damaged} is not what was written")
        content = _read(Path(path))
    except Exception as error:
        otherwise = f", or one of the names {', '.join(names)}" if names else ""
        raise ValueError(
            f"The weights {path} cannot be read: the file is missing, truncated, damaged or holds code; give a state "
            f"dict that torch.save has written{otherwise}"
        ) from error
    if isinstance(content, dict) and "class_names" in content and "state_dict" in content:
        state = content["state_dict"]
        content = {name.removeprefix(BACKBONE): state[name] for name in state if name.startswith(BACKBONE)}
    named = content.items() if isinstance(content, dict) else ()
    if not named or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in named):
        raise ValueError(
            f"The weights {path} are no state dict, and no checkpoint of a network that has a backbone; give a file "
            "such as torch.save(network.state_dict(), path) writes"
        )
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in content):
            content = {name.removeprefix(wrapper): value for name, value in content.items()}
    return dict(content)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings(action="ignore"):  # about a file that is refused
        # A mapped file is read where it is used: only the backbone of a checkpoint.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], source: str, name: str, skip: Sequence[str] = ()
) -> None:
    """Load weights into a module, whose first convolution may have another number of channels.

    What begins with one of `skip` is left as it is. A message calls the weights `source` and the module `name`.
    """
    expected, given = (
        {key: value for key, value in state.items() if not key.startswith(tuple(skip))}
        for state in (module.state_dict(), weights)
    )
    first = next((layer for layer, child in module.named_modules() if isinstance(child, nn.Conv2d)), "")
    kernels = given.get(f"{first}.weight")
    if kernels is not None and kernels.dim() == 4:
        given[f"{first}.weight"] = adapt_channels(kernels, expected[f"{first}.weight"].shape[1])
    # Files from before PyTorch 0.4.1 do not count batches; nothing depends on the count.
    counts = {key: value for key, value in expected.items() if key.endswith("num_batches_tracked")}
    if fault := misfit(expected, counts | given):
        raise ValueError(f"The weights {source} do not fit {name}: {fault}; give weights of {name}, or null")
    module.load_state_dict(given, strict=False)


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
        >>> adapt_channels(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1), 6).flatten().tolist()
        [0.5, 1.0, 1.5, 0.5, 1.0, 1.5]
    """
    channels = kernels.shape[1]
    if in_channels == channels:
        return kernels
    if in_channels == 1:
        return kernels.sum(dim=1, keepdim=True)
    return kernels[:, torch.arange(in_channels) % channels] * (channels / in_channels)
