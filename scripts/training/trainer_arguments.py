"""Checks of the Trainer's arguments."""

from collections.abc import Mapping
from datetime import timedelta
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace

from callbacks.curves import CSVLogger, TensorBoardLogger
from core.user_error import UserError


def one_or_more(value: Any) -> list[Any]:
    """Make a list of an argument that may be one value or several."""
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


def default_place(logger: Any) -> Path | None:
    """Return where in the run's folder a logger writes; None if it has a `save_dir` of its own, or takes none."""
    arguments: Any = logger.get("init_args") if isinstance(logger, Namespace) else None
    parameter = signature(resolve_name(logger.class_path)).parameters.get("save_dir") if arguments else None
    if parameter is None or parameter.default is Parameter.empty:
        return None
    default = Path(parameter.default or "")
    is_given = Path(arguments.save_dir or "") != default
    return None if is_given else Path() if is_ours(logger) else default


def is_ours(logger: Any) -> bool:
    """Return True for loggers that append to their files when the run is resumed."""
    return isinstance(logger, Namespace) and issubclass(resolve_name(logger.class_path), CSVLogger | TensorBoardLogger)


def check_trainer(config: Namespace) -> None:
    """Check the arguments of the Trainer that it would crash on, or that it would ignore."""
    trainer = config.trainer
    if trainer.accumulate_grad_batches < 1:
        raise UserError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}; give a whole number of at least 1."
        )
    if (clip := trainer.gradient_clip_val) is not None and clip < 0:
        raise UserError(f"trainer.gradient_clip_val is {clip}; give a number above 0, or null.")
    if trainer.barebones:
        raise UserError(
            "trainer.barebones is true, but a run without checkpoint, logger and callbacks leaves nothing behind; time "
            "its steps with scripts/benchmark.py."
        )
    if config.checkpoint and (place := config.checkpoint.get("init_args.dirpath")):
        raise UserError(
            f"checkpoint.dirpath is {place}, but checkpoints are kept in the run's folder, where --resume finds them; "
            "choose that with --runs."
        )
    for logger in one_or_more(trainer.logger):
        if is_ours(logger) and default_place(logger) is None:
            raise UserError(
                f"The logger's save_dir is {logger.init_args.save_dir}, but {logger.class_path} writes into the run's "
                "folder; choose that with --runs, or take the logger of that name from lightning.pytorch.loggers."
            )
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        if isinstance(value := trainer[name], int) and value < 1:
            raise UserError(
                f"trainer.{name} is {value}; give a whole number of at least 1, or leave validation out with "
                "--trainer.limit_val_batches 0."
            )
    if config.early_stopping and isinstance(interval := trainer.val_check_interval, str | Mapping | timedelta):
        raise UserError(
            f"trainer.val_check_interval is {interval}, a time, but early stopping counts validations, whose number "
            "would depend on the machine's speed; give a number of batches or a fraction of an epoch, or "
            "--early_stopping null."
        )
