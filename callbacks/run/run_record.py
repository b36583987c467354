"""Write a run's configuration, origin and results into its folder."""

import csv
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from torch import Tensor

from callbacks.run import origin
from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.run_folder import CONFIG, RESULTS, number_start
from core.durable_file import replace_file, replacing
from core.names import escape_name
from core.user_error import UserError
from datamodules.base import ImageDataModule
from models.classifier import Classifier
from models.serialization.checkpoint import VERSION, CheckpointContent

# Packages whose versions affect the numbers that a run computes.
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "kornia")


class TrainingClock(OutsideSteps):
    """Measures the seconds spent in training batches, without validation."""

    training_seconds = 0.0
    _started: float | None = None

    def measure(self, *, is_training: bool) -> None:
        """Add the seconds since the clock was started; then restart it if `is_training`, else pause it."""
        now = time.perf_counter()
        if self._started is not None:
            self.training_seconds += now - self._started
        self._started = now if is_training else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.measure(is_training=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause the clock."""
        self.measure(is_training=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock after a validation within training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.measure(is_training=True)


class RunRecord(TrainingClock):
    """Writes the configuration, origin and results of a run of `scripts/train.py` into its folder.

    At the start: `origin.json`, `constraints.txt` and `changes.patch` (see `callbacks.run.origin`), `config.yaml`,
    `classes.csv` (for each class the training images, the images per epoch and the weight in the loss), and
    `skipped_files.txt` if the data set has unreadable images. After training, and again after the test: `results.json`.

    A resumed run keeps its origin; `restarts.json` and a printed line list what has changed. Every checkpoint gets
    `config`, `versions`, `git_commit`, `data_fingerprint`, `data_images` and `progress`, in plain types; a resumed run
    counts on from `progress`.
    """

    _data: ImageDataModule
    _data_images: dict[str, Tensor]

    def __init__(
        self,
        folder: Path,
        experiment: str,
        config: str,
        command: Sequence[str] = (),
        step: int = 0,  # at which a resumed run starts
        repeats: Path | None = None,  # the run that `--like` repeats
    ) -> None:
        self.folder = folder
        self.results: dict[str, Any] = {"experiment": experiment}  # the content of `results.json`
        self.is_kept = False  # True once this start has written a checkpoint or a result
        self.config: dict[str, Any] = yaml.safe_load(config)
        self._text, self._command, self._step, self._repeats = config, command, step, repeats
        self._is_new = not (folder / CONFIG).exists()
        versions = {"kindling": VERSION} | {name: origin.packages()[name] for name in PACKAGES}
        self._code = {"versions": versions, "git_commit": origin.code().name}
        self._earlier = {"images": 0}  # images of all starts so far; seconds of earlier starts
        self._had_ended_in_epoch = False
        self._metrics: dict[str, float] = {}
        self._start_time = math.inf  # until training starts, which it does not in a finished run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write configuration and origin before training starts."""
        if stage != "fit":
            return
        self._data = trainer.datamodule  # type: ignore[attr-defined]  # the Trainer declares none
        self._data_images = self._data.known_images
        if not trainer.is_global_zero:
            return
        if self._is_new:
            start = self._describe_start(trainer)
            if self._repeats:
                start["repeats"] = str(self._repeats.resolve())
            origin.write_origin(self.folder, start)
            self._write_config()
        if self._data.pack and self._data.pack.skipped:
            lines = (f"{escape_name(name)}\t{escape_name(reason)}\n" for name, reason in self._data.pack.skipped)
            replace_file(self.folder / "skipped_files.txt", "".join(lines))

    def _describe_start(self, trainer: Trainer) -> origin.Facts:
        data, device = self._data, trainer.strategy.root_device
        start = origin.describe_start(self._command, device, trainer.world_size, data.seed, data.data_fingerprint)
        return start | {"data_files": dict(data.described_by)}

    def _write_config(self) -> None:
        """Write the configuration; its presence marks a start as complete, so it is written last."""
        number_start(self.folder)
        replace_file(self.folder / CONFIG, self._text)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the images and the loss weight of each class."""
        if trainer.is_global_zero:
            data, weights = self._data, cast(Classifier, pl_module).loss_weights
            with replacing(self.folder / "classes.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("class", "train_images", "images_per_epoch", "loss_weight"))
                writer.writerows(zip(data.class_names, data.class_counts, data.epoch_counts, weights, strict=True))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the configuration, the origin and the progress of the run."""
        self.is_kept = True
        content = cast(CheckpointContent, checkpoint)
        content["config"] = self.config
        content["data_fingerprint"] = self._data.data_fingerprint
        content["data_images"] = self._data_images
        if trainer.is_global_zero:
            loggers = [logger for logger in trainer.loggers if hasattr(logger, "lengths")]
            content["curves"] = {name: length for logger in loggers for name, length in logger.lengths().items()}
        content["progress"] = {"metrics": self._metrics | _logged_metrics(trainer), **self._progress(trainer)}
        checkpoint.update(self._code)

    def _progress(self, trainer: Trainer) -> dict[str, float]:
        """Return the images and seconds of the run, with those of its earlier starts."""
        self.measure(is_training=self._started is not None)
        seconds = {
            "waiting_seconds": float(getattr(trainer.train_dataloader, "seconds_waited", 0.0)),
            "checkpoint_seconds": float(getattr(trainer.checkpoint_callback, "seconds_waited", 0.0)),
            "run_seconds": max(0.0, time.perf_counter() - self._start_time),
            "training_seconds": self.training_seconds,
        }
        return self._earlier | {name: value + self._earlier.get(name, 0.0) for name, value in seconds.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the progress; merge the training images of this run's earlier and new data."""
        if trainer.state.fn != "fit":
            return
        if 0 <= (trainer.max_epochs or -1) < checkpoint["epoch"]:
            raise UserError(
                f"trainer.max_epochs is {trainer.max_epochs}, but {checkpoint['epoch']} epochs are done; give more, or "
                "leave it out."
            )
        if progress := dict(checkpoint.get("progress", {})):
            self._metrics = progress.pop("metrics")
            self._earlier |= progress
            self._had_ended_in_epoch = self._data.place[0] < checkpoint["epoch"]
        if earlier_images := checkpoint.get("data_images"):
            from datamodules.batching.data_changes import data_changes, trained_on_both

            if changes := data_changes(earlier_images, self._data_images):
                self._data_images = trained_on_both(earlier_images, self._data_images)
                if trainer.is_global_zero:
                    print(f"note: {changes}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; write what has changed in a resumed run, now that all its settings are checked."""
        if trainer.is_global_zero and not self._is_new:
            from callbacks.run.restarts import note_restart

            if changed := note_restart(self.folder, self._describe_start(trainer), self._step, self.config):
                print(f"not as when the run began: {'; '.join(changed)}")
            self._write_config()
        images = _images_of_epoch(trainer)  # every rank must call it
        if self._had_ended_in_epoch and not trainer.should_stop:  # that epoch, already counted, is now resumed
            self._earlier["images"] -= images
        self._start_time = time.perf_counter()
        self.measure(is_training=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause the clock, and count the epoch's images."""
        self.measure(is_training=False)
        self._earlier["images"] += _images_of_epoch(trainer)
        self._data.check_unchanged()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of training."""
        self._data.check_unchanged()
        self.is_kept = True
        classifier, checkpoint = cast(Classifier, pl_module), trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_score", None)
        best_path, last_path = (getattr(checkpoint, f"{name}_model_path", "") for name in ("best", "last"))
        progress = self._progress(trainer)
        training_seconds = max(progress["training_seconds"], 1e-9)
        self.results |= {
            "seed": self._data.seed,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "stopped_by": stopped_by(trainer),
            "test": self.config.get("test", True),
            "seconds": round(progress["run_seconds"], 3),
            "images_per_second": round(progress["images"] / training_seconds, 1),
            "waiting_for_checkpoints": round(progress["checkpoint_seconds"], 3),
            "waiting_for_data": round(progress["waiting_seconds"] / training_seconds, 4),
            "classes": classifier.num_classes,
            "parameters": sum(parameter.numel() for parameter in classifier.network.parameters()),
            "checkpoint": os.path.relpath(best_path or last_path or self.folder, self.folder),
            "monitor": getattr(checkpoint, "monitor", None),
            "mode": getattr(checkpoint, "mode", None),
            "best": None if best is None else float(best),
            "best_epoch": getattr(checkpoint, "best_epoch", None),
            "metrics": self._metrics,
            "precision": str(trainer.precision),
            "device": str(trainer.strategy.root_device),
            "hardware": origin.hardware(trainer.strategy.root_device),
            "processes": trainer.world_size,
            **self._code,
        }
        self.on_test_end(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the metrics that were logged last."""
        self.results.setdefault("metrics", {}).update(_logged_metrics(trainer))
        if trainer.is_global_zero:
            try:
                replace_file(self.folder / RESULTS, json.dumps(self.results, indent=2) + "\n")
            except OSError as error:  # no reason to end: an unwritten checkpoint, which matters more, raises
                print(f"warning: {self.folder / RESULTS} could not be written ({error.strerror})", file=sys.stderr)


def stopped_by(trainer: Trainer) -> str:
    """Return the setting that ended training, with its value."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # the Trainer declares none
    for callback in callbacks:
        if getattr(callback, "has_stopped", False):
            return f"early_stopping.patience {callback.patience} of {callback.monitor}"
    for name, count in (("max_epochs", trainer.current_epoch), ("max_steps", trainer.global_step)):
        limit = getattr(trainer, name)
        if limit is not None and 0 <= limit <= count:
            return f"trainer.{name} {limit}"
    has_timer = any(isinstance(callback, Timer) for callback in callbacks)
    return "trainer.max_time" if has_timer else "trainer.callbacks"


def _images_of_epoch(trainer: Trainer) -> int:
    total = cast(Classifier, trainer.lightning_module).train_metrics.total.clone()
    return int(trainer.strategy.reduce(total, reduce_op="sum"))  # in a resumed epoch, rank 0 has more


def _logged_metrics(trainer: Trainer) -> dict[str, float]:
    stages = ("train/", "val/", "test/")
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(stages)}
