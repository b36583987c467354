"""Checks of the Trainer's arguments."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace

from callbacks.curves import FileLogger
from core.user_error import UserError


def one_or_more(value: Any) -> list[Any]:
    """Make a list of an argument that may be one value or several; of a truth value, an empty one."""
    return list(value) if isinstance(value, list | tuple) else [value] if value and value is not True else []


def is_ours(logger: Namespace) -> bool:
    """True for loggers that write into the run's folder, and append to their files when the run is resumed."""
    return issubclass(resolve_name(logger.class_path), FileLogger)


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
        raise UserError("trainer.barebones is true, but such a run leaves nothing behind; use scripts/benchmark.py.")
    places = {"checkpoint.dirpath": config.checkpoint and config.checkpoint.get("init_args.dirpath")}
    for logger in one_or_more(trainer.logger):
        if is_ours(logger) and (save_dir := Path(logger.init_args.save_dir)) != Path("runs"):
            places[f"{logger.class_path}.save_dir"] = save_dir
    for key, place in places.items():
        if place:
            raise UserError(f"{key} is {place}, but it is always the run's folder; choose that with --runs.")
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
