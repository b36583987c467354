"""The settings of runs, beside what came of them."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer

from callbacks.curves import SETTINGS, TensorBoardLogger
from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.run_record import RunRecord
from core.durable_file import replacing
from models.classifier import Classifier
from models.serialization.class_path import find_class, is_default, parameter

# Arguments of the Trainer that decide what is learnt.
TRAINER = (
    *("max_epochs", "max_steps", "max_time", "accumulate_grad_batches", "limit_train_batches", "overfit_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "sync_batchnorm"),
)

CALLBACKS = ("weight_average", "early_stopping", "feature_cache")  # callbacks that decide what is learnt


class Hyperparameters(OutsideSteps):
    """Fills TensorBoard's HParams tab, by which runs are sorted by settings and figures.

    The settings are the part of the configuration that decides what is learnt, under the names of the flags: every
    class, every number, and every other argument that is not its default, but no paths. The figures are the last of
    each curve, and `best/<figure>`, by which checkpoints are chosen, after training.

    A resumed run has the settings that it goes on with. Loggers of other kinds are given the whole configuration.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the settings, into a file read before all others: not every reader comes back to an older one."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # the Trainer declares none
        record = next((callback for callback in callbacks if isinstance(callback, RunRecord)), None)
        if stage != "fit" or record is None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.log_hyperparams(record.config)
            if isinstance(logger, TensorBoardLogger):
                settings = hyperparameters(record.config, str(trainer.precision), trainer.world_size)
                _write_start(logger.folder / SETTINGS, settings)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the best figure."""
        checkpoint = trainer.checkpoint_callback
        monitor, best = (getattr(checkpoint, name, None) for name in ("monitor", "best_model_score"))
        if monitor and best is not None:
            for logger in trainer.loggers:
                logger.log_metrics({f"best/{monitor}": float(best)}, step=trainer.global_step)


def hyperparameters(config: Mapping[str, Any], precision: str, processes: int) -> dict[str, str | float]:
    """The settings of a run that decide what is learnt, by the rule of `Hyperparameters`."""
    trainer = {name: config["trainer"].get(name) for name in TRAINER}
    found = {"seed_everything": config["seed_everything"], "processes": processes, "trainer.precision": precision}
    found |= _of_arguments("model", Classifier, config["model"]) | _of_arguments("trainer", Trainer, trainer)
    for name in ("data", *CALLBACKS):
        found |= _of_value(name, config.get(name))
    return found


def _of_value(key: str, value: Any, default: Any = None) -> dict[str, str | float]:
    if isinstance(value, Mapping) and (class_ := find_class(value.get("class_path"))):
        return {key: class_.__name__, **_of_arguments(key, class_, value.get("init_args") or {})}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {key: value}
    return {} if is_default(value, default) else {key: _text(value)}


def _of_arguments(key: str, class_: type, arguments: Mapping[str, Any]) -> dict[str, str | float]:
    found: dict[str, str | float] = {}
    for name, value in arguments.items():
        argument = parameter(class_, name)
        if argument is None or Path not in (argument.annotation, *get_args(argument.annotation)):
            found |= _of_value(f"{key}.{name}".lstrip("."), value, argument.default if argument else None)
    return found


def _text(value: Any) -> str:
    """A value in a cell of the table, such as `RandomAffine(degrees=10.0)`."""
    if isinstance(value, Mapping) and (class_ := find_class(value.get("class_path"))):
        arguments = _of_arguments("", class_, value.get("init_args") or {})
        return f"{class_.__name__}({', '.join(f'{name}={setting}' for name, setting in arguments.items())})"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "[]"
    return value if isinstance(value, str) else json.dumps(value)


def _write_start(file: Path, settings: dict[str, str | float]) -> None:
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
