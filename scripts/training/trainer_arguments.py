"""Check and complete the arguments of the Trainer."""

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.profilers import PassThroughProfiler

from callbacks.curves import CSVLogger, FileLogger
from core.user_error import UserError
from models.serialization.checkpoint_io import DurableCheckpointIO


class NoProfiler(PassThroughProfiler):
    """Measures nothing. Lightning's default sets up a generator around each of the forty hooks of a step."""

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]  # any context manager will do
        """Return a context that does nothing."""
        return nullcontext()


def one_or_more(value: Any) -> list[Any]:
    """Return an argument that may be one value or several as a list; None and booleans give an empty one."""
    return list(value) if isinstance(value, list | tuple) else [value] if value and value is not True else []


def is_project_logger(logger: Namespace) -> bool:
    """Return True for a logger of this project, which writes into the run's folder, also when the run is resumed."""
    return issubclass(resolve_name(logger.class_path), FileLogger)


def check_trainer(config: Namespace) -> None:
    """Raise UserError for arguments of the Trainer that would crash later, or be ignored."""
    trainer = config.trainer
    for name in ("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch"):
        if isinstance(value := trainer[name], int) and value < 1:
            hint = ", or leave validation out with --trainer.limit_val_batches 0" if "val" in name else ""
            raise UserError(f"trainer.{name} is {value}; give a whole number of at least 1{hint}.")
    if (clip := trainer.gradient_clip_val) is not None and clip < 0:
        raise UserError(f"trainer.gradient_clip_val is {clip}; give a number above 0, or null.")
    if trainer.barebones:
        raise UserError("trainer.barebones is true, but such a run writes no files; use scripts/benchmark.py.")
    if config.early_stopping and isinstance(interval := trainer.val_check_interval, str | Mapping | timedelta):
        raise UserError(
            f"trainer.val_check_interval is {interval}, a time, but early stopping counts validations, whose number "
            "would depend on the machine's speed; give a number of batches or a fraction of an epoch, or "
            "--early_stopping null."
        )
    places = {"checkpoint.dirpath": config.checkpoint and config.checkpoint.get("init_args.dirpath")}
    for logger in filter(is_project_logger, one_or_more(trainer.logger)):
        if Path(logger.init_args.save_dir) != Path("runs"):  # its default
            places[f"{logger.class_path}.save_dir"] = logger.init_args.save_dir
    for key, place in places.items():
        if place:
            raise UserError(f"{key} is {place}, but it is always the run's folder; choose that with --runs.")


def place_loggers(trainer: Namespace, folder: Path, experiment: str) -> None:
    """Let all loggers write into the run's folder, and add one that writes metrics.csv."""
    trainer.logger = loggers = one_or_more(trainer.logger)
    if not any(issubclass(resolve_name(logger.class_path), CSVLogger) for logger in loggers):
        loggers.append(Namespace(class_path="callbacks.curves.CSVLogger", init_args=Namespace()))  # type: ignore[no-untyped-call]
    for logger in filter(is_project_logger, loggers):
        logger.init_args.save_dir = str(folder)
    if not all(map(is_project_logger, loggers)):
        from scripts.training.loggers import place_other_loggers

        place_other_loggers([logger for logger in loggers if not is_project_logger(logger)], folder, experiment)


def build_trainer(arguments: Namespace) -> Trainer:
    """Build the Trainer, with Kindling's checkpoint files and without a profiler by default."""
    # In float32, the convolutions that cuDNN finds fastest differ from run to run in the last bits.
    torch.backends.cudnn.deterministic = arguments.deterministic is not False
    arguments.plugins = one_or_more(arguments.plugins)
    if not any(isinstance(plugin, CheckpointIO) for plugin in arguments.plugins):
        arguments.plugins.append(DurableCheckpointIO())
    arguments.profiler = arguments.profiler or NoProfiler()
    if not any(isinstance(callback, Checkpoint) for callback in arguments.callbacks):
        arguments.enable_checkpointing = False
    try:
        return Trainer(**vars(arguments))
    except TypeError as error:
        if "CPUAccelerator" not in str(error):
            raise
        raise UserError(
            f"trainer.devices is {arguments.devices}, which is for GPUs; give a number of processes, such as 1."
        ) from error
