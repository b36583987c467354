"""Start from a checkpoint: `--ckpt_path` of fit, validate and test, and a resumed run."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace

from core.user_error import UserError
from datamodules.base import ImageDataModule
from models.serialization.checkpoint import is_weights_only, read_checkpoint


def check_trainable(path: str | Path) -> None:
    """Raise UserError if training cannot continue from a checkpoint, because it has no optimizer state."""
    if is_weights_only(read_checkpoint(path)):
        raise UserError(
            f"{path} is a weights-only checkpoint; give a run's last.ckpt, or give --model.network.weights {path}."
        )


def skip_initial_weights(config: Namespace, *, is_training: bool) -> None:
    """Configure the network without pretrained weights, because the checkpoint's weights replace them.

    Raises UserError if training would continue with other `weights` than the checkpoint was trained from.
    """
    network = config.model.network
    arguments: dict[str, Any] = getattr(resolve_name(network.class_path), "rebuilt_with", {})
    if not arguments:
        return
    model = read_checkpoint(config.ckpt_path).get("config", {}).get("model", {})
    saved = model.get("network", {}).get("init_args", {})
    for name, value in arguments.items():
        if is_training and str(network.init_args[name]) not in (str(value), str(saved.get(name))):
            raise UserError(
                f"model.network.{name} is {network.init_args[name]}, but the weights are those of "
                f"{config.ckpt_path}; leave it out, or begin a new run."
            )
        network.init_args[name] = value


def print_data_changes(path: str | Path, data: ImageDataModule) -> None:
    """Print a note if a checkpoint was trained on images that differ from those of the data."""
    from datamodules.batching.data_changes import data_changes

    if changes := data_changes(read_checkpoint(path).get("data_images"), data.known_images):
        print(f"note: {changes}")
