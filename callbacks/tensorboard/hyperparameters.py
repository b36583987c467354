"""The settings of runs, beside what came of them."""

import inspect
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch.loggers
from lightning.pytorch import LightningModule, Trainer

from callbacks.curves import SETTINGS, CSVLogger, TensorBoardLogger
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
    *("max_epochs", "max_steps", "max_time", "accumulate_grad_batches", "limit_train_batches", "overfit_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "sync_batchnorm"),
)

CALLBACKS = ("weight_average", "early_stopping", "feature_cache")  # callbacks that decide what is learnt


class Hyperparameters(OutsideSteps):
    """Fills TensorBoard's HParams tab, by which runs are sorted by settings and figures.

    The settings are the part of the configuration that decides what is learnt, under the names of the flags: seed,
    precision and batch size; network, optimizer, schedule, loss and averaging with all their numbers; and every
    argument of these, of data, Trainer and early stopping that is not its default, but no paths. The figures are the
    last of each curve, and `best/<figure>`, by which checkpoints are chosen, after training.

    A resumed run has the settings that it goes on with. Loggers of other kinds are given the whole configuration.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the settings, into a file read before all others: not every reader comes back to an older one."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # the Trainer declares none
        record = next((callback for callback in callbacks if isinstance(callback, RunRecord)), None)
        if stage != "fit" or record is None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger | lightning.pytorch.loggers.TensorBoardLogger):
                settings = hyperparameters(record.config, str(trainer.precision), trainer.world_size)
                _write_start(Path(str(logger.log_dir)) / SETTINGS, settings)
            elif not isinstance(logger, CSVLogger):
                logger.log_hyperparams(record.config)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the best figure."""
        checkpoint = trainer.checkpoint_callback
        monitor, best = (getattr(checkpoint, name, None) for name in ("monitor", "best_model_score"))
        if monitor and best is not None:
            for logger in trainer.loggers:
                logger.log_metrics({f"best/{monitor}": float(best)}, step=trainer.global_step)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that the run is over."""
        write_to_tensorboard(trainer, _write_end)


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
    """The settings of an argument: none if it is its default, unless it is a class or, where asked for, a number."""
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


def _write_start(file: Path, settings: dict[str, Value]) -> None:
    """Write an events file with settings whole or, without space, not at all."""
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


def _write_end(writer: Any) -> None:
    from torch.utils.tensorboard.summary import hparams

    _, _, end = hparams({}, {})  # type: ignore[no-untyped-call]
    if writer.file_writer is not None:
        writer.file_writer.add_summary(end)
