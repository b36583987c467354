"""The settings of runs, beside what came of them."""

import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch.loggers
from lightning.pytorch import LightningModule, Trainer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

from callbacks.curves import SETTINGS, CSVLogger
from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.run_record import RunRecord
from callbacks.tensorboard.board import write_to_tensorboard
from core.durable_file import replacing
from models.classifier import Classifier
from models.serialization.class_path import find_class
from models.serialization.constructor import is_default, parameter

Value = str | bool | int | float

# Arguments of the Trainer that decide what is learnt.
TRAINER = (
    *("max_epochs", "max_steps", "max_time", "accumulate_grad_batches", "limit_train_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "sync_batchnorm"),
)

CALLBACKS = ("weight_average", "early_stopping", "feature_cache")  # callbacks that do


class Hyperparameters(OutsideSteps):
    """Fills TensorBoard's HParams tab; other loggers are given the whole configuration.

    The tab holds what a run was asked for, and its figures, so that runs are sorted by either.

    What it was asked for is that part of the configuration which decides what is learnt, under the names of the flags:
    seed, precision, batch size; network, optimizer, schedule, loss and averaging with all their numbers; and of these,
    data, Trainer and early stopping whatever is not its constructor's default, but no paths. The figures are the last
    of each curve, among them `best/<figure>`, which is logged after training: that by which checkpoints are chosen.

    A run that is taken up has the settings that it goes on with.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the settings, into a file read before all others: not every reader comes back to an older one."""
        records = [callback for callback in _callbacks(trainer) if isinstance(callback, RunRecord)]
        if stage != "fit" or not records or not trainer.is_global_zero:
            return
        settings = hyperparameters(records[0].config, str(trainer.precision), trainer.world_size)
        _, start, _ = hparams(settings, {})  # type: ignore[no-untyped-call]
        for logger in trainer.loggers:
            if isinstance(logger, lightning.pytorch.loggers.TensorBoardLogger):
                _write_alone(Path(logger.log_dir) / SETTINGS, start)
            elif not isinstance(logger, CSVLogger):
                logger.log_hyperparams(records[0].config)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the best figure."""
        checkpoint = trainer.checkpoint_callback
        monitor, best = (getattr(checkpoint, name, None) for name in ("monitor", "best_model_score"))
        if monitor and best is not None:
            for logger in trainer.loggers:
                logger.log_metrics({f"best/{monitor}": float(best)}, step=trainer.global_step)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that the run is over."""
        _, _, end = hparams({}, {})  # type: ignore[no-untyped-call]
        write_to_tensorboard(trainer, lambda writer: writer._get_file_writer().add_summary(end))  # type: ignore[no-untyped-call]


def hyperparameters(config: Mapping[str, Any], precision: str, processes: int) -> dict[str, Value]:
    """The settings of a run that decide what is learnt, by the rule of `Hyperparameters`."""
    found: dict[str, Value] = {"seed_everything": config["seed_everything"]}
    found |= _settings("data", config["data"], numbers=False)
    found |= _settings("data.batch_size", config["data"].get("init_args", {}).get("batch_size"))
    for name, value in config["model"].items():
        argument = inspect.signature(Classifier).parameters[name]
        found |= _settings(f"model.{name}", value, argument.default, numbers=isinstance(value, Mapping))
    trainer = inspect.signature(Trainer).parameters
    for name in TRAINER:
        found |= _settings(f"trainer.{name}", config["trainer"].get(name), trainer[name].default, numbers=False)
    found |= {"trainer.precision": precision} | ({"processes": processes} if processes > 1 else {})
    for name in CALLBACKS:
        found |= _settings(name, config.get(name), numbers=name == "weight_average")
    return found


def _settings(key: str, value: Any, default: Any = None, *, numbers: bool = True) -> dict[str, Value]:
    """What there is to be told of an argument: nothing if it is its default, unless it is a class, or a number."""
    if isinstance(value, Mapping) and (class_ := find_class(value.get("class_path"))):
        return {key: class_.__name__, **_arguments(key, class_, value.get("init_args") or {}, numbers)}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_default(value, default) and not (numbers and is_number):
        return {}
    if isinstance(value, list | tuple) and value:
        return {key: ", ".join(map(_text, value))}
    return {key: value if is_number else _text(value)}


def _arguments(key: str, class_: type, arguments: Mapping[str, Any], numbers: bool) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in arguments.items():
        argument = parameter(class_, name)
        annotation = argument.annotation if argument else Any
        if Path not in (annotation, *get_args(annotation)):
            default = argument.default if argument else None
            found |= _settings(f"{key}.{name}", value, default, numbers=numbers)
    return found


def _text(value: Any) -> str:
    """A value in a cell of the table, such as `RandomAffine(degrees=10.0)`."""
    if isinstance(value, Mapping) and (class_ := find_class(value.get("class_path"))):
        found = _arguments("", class_, value.get("init_args") or {}, numbers=False)
        changed = [f"{name[1:]}={setting}" for name, setting in found.items()]
        return f"{class_.__name__}({', '.join(changed)})" if changed else class_.__name__
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _callbacks(trainer: Trainer) -> Iterator[Any]:
    yield from trainer.callbacks  # type: ignore[attr-defined]  # the Trainer declares none


def _write_alone(file: Path, summary: Any) -> None:
    """Write an events file whole or, without space, not at all."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part, part.open("wb") as opened:
            records = RecordWriter(opened)
            for content in ({"file_version": "brain.Event:2"}, {"summary": summary}):
                records.write(Event(wall_time=time.time(), **content).SerializeToString())
