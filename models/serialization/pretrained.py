"""Load pretrained weights from a file, also into a network with another first or last layer."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from core.names import some_of
from core.user_error import UserError
from models.serialization.checksums import damaged_part

BACKBONE = "network.backbone."  # prefix of the backbone's weights in a checkpoint

# Prefixes that DistributedDataParallel and torch.compile give the name of each weight, in either order.
WRAPPERS = ("module.", "_orig_mod.", "module.")


def read_weights(path: str | Path, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Read a state dict, or the backbone from a checkpoint of `scripts/train.py`, without running code in the file.

    An error message offers `names`, the names of published weights.
    """
    try:
        if damaged := damaged_part(path):
            raise ValueError(f"{damaged} is not what was written")
        content = _read(Path(path))
    except Exception as error:
        alternative = f", or one of the names {', '.join(names)}" if names else ""
        raise ValueError(
            f"The weights {path} cannot be read: the file is missing, truncated, damaged or holds code; give a state "
            f"dict that torch.save has written{alternative}"
        ) from error
    if isinstance(content, dict) and "class_names" in content and "state_dict" in content:
        state = content["state_dict"]
        content = {name.removeprefix(BACKBONE): state[name] for name in state if name.startswith(BACKBONE)}
    if not _is_state_dict(content):
        raise ValueError(
            f"The weights {path} are no state dict, and no checkpoint of a network that has a backbone; give a file "
            "such as torch.save(network.state_dict(), path) writes"
        )
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in content):
            content = {name.removeprefix(wrapper): value for name, value in content.items()}
    return dict(content)


def _is_state_dict(content: object) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings(action="ignore"):  # torch warns about a file that it then rejects
        # Memory mapping reads only the tensors that are used, such as the backbone of a checkpoint.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))


def load_weights(
    module: nn.Module, weights: Mapping[str, Tensor], source: str, name: str, skip: Sequence[str] = ()
) -> None:
    """Load weights into a module, and adapt them if its first convolution has another number of input channels.

    `skip` are prefixes of weights that are neither expected nor loaded. Messages call the weights `source` and the
    module `name`.
    """
    prefixes = tuple(skip)
    expected = {key: value for key, value in module.state_dict().items() if not key.startswith(prefixes)}
    loaded = {key: value for key, value in weights.items() if not key.startswith(prefixes)}
    first = next((layer for layer, child in module.named_modules() if isinstance(child, nn.Conv2d)), "")
    kernels = loaded.get(f"{first}.weight")
    if kernels is not None and kernels.dim() == 4:
        loaded[f"{first}.weight"] = adapt_channels(kernels, expected[f"{first}.weight"].shape[1])
    # Files from before PyTorch 0.4.1 lack batch norm's count of batches, on which no output depends.
    counts = {key: value for key, value in expected.items() if key.endswith("num_batches_tracked")}
    if mismatch := misfit(expected, counts | loaded):
        raise ValueError(f"The weights {source} do not fit {name}: {mismatch}; give weights of {name}, or null")
    module.load_state_dict(loaded, strict=False)


def check_fit(module: nn.Module, weights: Mapping[str, Any], name: str) -> None:
    """Raise UserError if a checkpoint's weights do not fit the module, called `name` in the message."""
    if mismatch := misfit(module.state_dict(), weights):
        raise UserError(
            f"The checkpoint's weights do not fit {name} as it is configured: {mismatch}; leave model.network as it "
            "was trained, or begin a new run from the backbone with --model.network.weights."
        )


def misfit(expected: Mapping[str, Any], loaded: Mapping[str, Any]) -> str:
    """Count missing, unexpected and misshapen weights and name the first of each; return "" if all fit."""
    mismatches = {
        "missing": [key for key in expected if key not in loaded],
        "unexpected": [key for key in loaded if key not in expected],
        "of another shape": [
            f"{key} {list(loaded[key].shape)} for {list(value.shape)}"
            for key, value in expected.items()
            if isinstance(value, Tensor) and key in loaded and loaded[key].shape != value.shape
        ],
    }
    return "; ".join(f"{len(keys)} {kind} ({some_of(keys, 3)})" for kind, keys in mismatches.items() if keys)


def adapt_channels(kernels: Tensor, in_channels: int) -> Tensor:
    """Adapt kernels `[O, C, h, w]` to `[O, in_channels, h, w]`, with the same output for images of equal channels.

    For one channel, the kernels are summed, because a grey image is a colour image of equal channels. For any other
    number, the channels are repeated in order and scaled by `C / in_channels`.

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
