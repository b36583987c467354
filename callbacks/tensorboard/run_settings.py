"""The settings of a run that affect what is learnt, as TensorBoard's hyperparameters."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import Trainer

from core.durable_file import replacing
from models.classifier import Classifier
from models.serialization.class_path import find_class, is_default, parameter

# The Trainer's arguments that affect what is learnt.
TRAINER_ARGUMENTS = (
    *("max_epochs", "max_steps", "max_time", "accumulate_grad_batches", "limit_train_batches", "overfit_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "sync_batchnorm"),
)

CALLBACKS = ("weight_average", "early_stopping", "feature_cache")  # callbacks that affect what is learnt

Settings = dict[str, str | float]


def run_settings(config: Mapping[str, Any], precision: str, world_size: int) -> Settings:
    """Return the settings that affect what is learnt, as `Hyperparameters` describes."""
    trainer = {name: config["trainer"].get(name) for name in TRAINER_ARGUMENTS}
    settings: Settings = {"seed_everything": config["seed_everything"]}
    settings |= {"processes": world_size, "trainer.precision": precision}
    settings |= _argument_settings("model", Classifier, config["model"])
    settings |= _argument_settings("trainer", Trainer, trainer)
    for name in ("data", *CALLBACKS):
        settings |= _value_settings(name, config.get(name))
    return settings


def _argument_settings(key: str, class_: type, arguments: Mapping[str, Any]) -> Settings:
    """Return the settings of a class's constructor arguments, except paths."""
    settings: Settings = {}
    for name, value in arguments.items():
        argument = parameter(class_, name)
        if argument is None or Path not in (argument.annotation, *get_args(argument.annotation)):
            settings |= _value_settings(f"{key}.{name}".lstrip("."), value, argument.default if argument else None)
    return settings


def _value_settings(key: str, value: Any, default: Any = None) -> Settings:
    """Return a class with its arguments, a number, or any other value unless it is the default."""
    if isinstance(value, Mapping) and (class_ := find_class(value.get("class_path"))):
        return {key: class_.__name__, **_argument_settings(key, class_, value.get("init_args") or {})}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {key: value}
    return {} if is_default(value, default) else {key: _text(value)}


def _text(value: Any) -> str:
    """Format a value for a cell of the table, such as `RandomAffine(degrees=10.0)`."""
    if isinstance(value, Mapping) and (class_ := find_class(value.get("class_path"))):
        arguments = _argument_settings("", class_, value.get("init_args") or {})
        return f"{class_.__name__}({', '.join(f'{name}={setting}' for name, setting in arguments.items())})"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "[]"
    return value if isinstance(value, str) else json.dumps(value)


def write_settings(file: Path, settings: Settings) -> None:
    """Write settings to an events file atomically; without disk space, write nothing.

    The settings have a file of their own, whose name sorts first, because not every reader of a run's files goes back
    to an earlier one.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import hparams

    _, start, _ = hparams(settings, {})  # type: ignore[no-untyped-call]
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part, part.open("wb") as opened:
            records = RecordWriter(opened)
            for content in ({"file_version": "brain.Event:2"}, {"summary": start}):
                records.write(Event(wall_time=time.time(), **content).SerializeToString())
