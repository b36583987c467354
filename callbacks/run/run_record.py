"""What stays of a run besides its weights and curves."""

import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from lightning.pytorch import LightningModule, Trainer

from callbacks.run import origin
from callbacks.run.migration import migrate_config
from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.run_folder import CONFIG, RESULTS, number_start
from core.durable_file import replace_file, replacing
from core.names import escape_name
from datamodules.base import ImageDataModule
from datamodules.batching.data_changes import KnownImages, data_changes, trained_on_both
from models.classifier import Classifier
from models.serialization.checkpoint import VERSION, CheckpointContent

# The packages whose versions decide what a run computes.
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "kornia")


class RunRecord(OutsideSteps):
    """Keeps the configuration, and the figures when they are known.

    Writes at the start what the run comes from (`origin.json`, `constraints.txt`, `changes.patch`: see
    `callbacks.run.origin`), `config.yaml`, `classes.csv` (how many training images of each class there are, how many an
    epoch shows, and what each counts in the loss) and `skipped_files.txt`, if files of the data set give no image; at
    the end of training and again after the test `results.json`. A run that goes on keeps its origin, and says in
    `restarts.json` and in a line what is no longer as it was. Adds `config`, `versions`, `git_commit`,
    `data_fingerprint`, `data_images` and `progress` to every checkpoint, in plain types; a resumed run counts on from
    `progress`.

    Args:
        folder: The run's folder.
        experiment: The name under which runs are compared.
        config: The resolved configuration as YAML.
        command: The command line.
        step: The optimizer step from which a resumed run goes on.
        repeats: The folder of a run that this one does again, if it does.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        config: str,
        command: Sequence[str] = (),
        step: int = 0,
        repeats: Path | None = None,
    ) -> None:
        self.folder = folder
        self._is_new = not (folder / CONFIG).exists()
        self.results: dict[str, Any] = {"experiment": experiment}
        """What `results.json` holds."""
        self.is_kept = False
        """Whether there is a checkpoint or a result of this start, so that nothing in its configuration was refused."""
        self._text = config
        self.config: dict[str, Any] = yaml.safe_load(config)
        """The resolved configuration."""
        self._fingerprint: str | None = None
        self._data_images: KnownImages | None = None
        self._command = command
        self._step = step
        self._repeats = repeats
        versions = {"kindling": VERSION} | {name: origin.packages()[name] for name in PACKAGES}
        self._origin = {"versions": versions, "git_commit": origin.code().name}
        self._images = 0
        self._was_cut_off = False
        self._waited_before = self._checkpoint_seconds_before = 0.0
        self._metrics: dict[str, float] = {}
        self._run_clock = Stopwatch()
        self._training_clock = Stopwatch()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write configuration and origin before anything is trained with them."""
        if stage != "fit":
            return
        datamodule = getattr(trainer, "datamodule", None)
        self._fingerprint = getattr(datamodule, "data_fingerprint", None)
        self._data_images = getattr(datamodule, "known_images", None)
        if trainer.is_global_zero and self._is_new:
            self._keep_start(self._start(trainer))
        skipped = getattr(getattr(datamodule, "pack", None), "skipped", None)
        if skipped and trainer.is_global_zero:
            lines = (f"{escape_name(name)}\t{escape_name(reason)}\n" for name, reason in skipped)
            replace_file(self.folder / "skipped_files.txt", "".join(lines))

    def _start(self, trainer: Trainer) -> origin.Facts:
        seed, device = getattr(getattr(trainer, "datamodule", None), "seed", None), trainer.strategy.root_device
        return origin.describe_start(self._command, device, trainer.world_size, seed, str(self._fingerprint))

    def _keep_start(self, start: origin.Facts) -> None:
        """Write what the run starts with, the configuration last: where that is, everything is."""
        again = {"repeats": str(self._repeats.resolve())} if self._repeats else {}
        origin.keep_origin(self.folder, start | again)
        number_start(self.folder)
        replace_file(self.folder / CONFIG, self._text)

    def _keep_restart(self, start: origin.Facts) -> None:
        before = migrate_config(yaml.safe_load((self.folder / CONFIG).read_text()))
        configured = origin.differences(origin.flat(before), origin.flat(self.config))
        if changed := origin.note_restart(self.folder, start, self._step, configured):
            print(f"not as when the run began: {'; '.join(changed)}")
        number_start(self.folder)
        replace_file(self.folder / CONFIG, self._text)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what each class counts."""
        datamodule = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or datamodule is None or not hasattr(datamodule, "epoch_counts"):
            return
        weights = cast(Classifier, pl_module).loss_weights
        rows = zip(datamodule.class_names, datamodule.class_counts, datamodule.epoch_counts, weights, strict=True)
        table = self.folder / "classes.csv"
        with replacing(table) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("class", "train_images", "images_per_epoch", "loss_weight"))
            writer.writerows(rows)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add where the weights come from, and how far the run is."""
        self.is_kept = True
        content = cast(CheckpointContent, checkpoint)
        content["config"] = self.config
        content["data_fingerprint"] = self._fingerprint
        content["data_images"] = self._data_images
        content["progress"] = {
            "images": self._images,
            "metrics": self._metrics | _figures(trainer),
            "waiting_seconds": self._waited(trainer),
            "checkpoint_seconds": self._checkpoint_seconds(trainer),
            "run_seconds": self._run_clock.seconds,
            "training_seconds": self._training_clock.seconds,
        }
        checkpoint.update(self._origin)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count on from there."""
        if trainer.state.fn == "fit" and (progress := checkpoint.get("progress")):
            self._images, self._metrics = progress["images"], progress["metrics"]
            place = getattr(getattr(trainer, "datamodule", None), "place", (checkpoint["epoch"], 0))
            self._was_cut_off = place[0] < checkpoint["epoch"]
            self._waited_before = progress["waiting_seconds"]
            self._checkpoint_seconds_before = progress.get("checkpoint_seconds", 0.0)
            self._run_clock = Stopwatch(progress["run_seconds"])
            self._training_clock = Stopwatch(progress["training_seconds"])
        earlier, now = checkpoint.get("data_images"), self._data_images
        if trainer.state.fn == "fit" and earlier and now and (changed := data_changes(earlier, now)):
            self._data_images = trained_on_both(earlier, now)
            if trainer.is_global_zero:
                print(f"note: {changed}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure; the images of an epoch taken up in its middle are counted when it ends.

        What a run goes on with is written now that nothing has refused it, and that there is something left to train.
        """
        if trainer.is_global_zero and not self._is_new:
            self._keep_restart(self._start(trainer))
        if self._was_cut_off and not trainer.should_stop:  # an epoch that was cut off, and counted, goes on
            self._images -= int(cast(Classifier, pl_module).train_metrics.total) * trainer.world_size
        self._run_clock.start()
        self._training_clock.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the time spent in training batches."""
        self._training_clock.start()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause."""
        self._training_clock.stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on, if this is a training's validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._training_clock.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause, and count the epoch's images."""
        self._training_clock.stop()
        self._images += int(cast(Classifier, pl_module).train_metrics.total) * trainer.world_size
        _refuse_changed_files(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what training has given."""
        _refuse_changed_files(trainer)
        self.is_kept = True
        self._run_clock.stop()
        checkpoint = trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_score", None)
        files = (getattr(checkpoint, f"{name}_model_path", "") for name in ("best", "last"))
        tested = next(filter(None, files), self.folder)
        datamodule = getattr(trainer, "datamodule", None)
        self.results |= {
            "seed": getattr(datamodule, "seed", None),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": round(self._run_clock.seconds, 3),
            "images_per_second": round(self._images / max(self._training_clock.seconds, 1e-9), 1),
            "waiting_for_checkpoints": round(self._checkpoint_seconds(trainer), 3),
            "waiting_for_data": round(self._waited(trainer) / max(self._training_clock.seconds, 1e-9), 4),
            "classes": cast(Classifier, pl_module).num_classes,
            "parameters": cast(Classifier, pl_module).num_parameters,
            "checkpoint": os.path.relpath(tested, self.folder),
            "monitor": getattr(checkpoint, "monitor", None),
            "mode": getattr(checkpoint, "mode", None),
            "best": None if best is None else float(best),
            "metrics": self._metrics,
            "precision": str(trainer.precision),
            "device": str(trainer.strategy.root_device),
            "hardware": origin.hardware(trainer.strategy.root_device),
            "processes": trainer.world_size,
            **self._origin,
        }
        self._write(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the test's figures."""
        self._write(trainer)

    def _waited(self, trainer: Trainer) -> float:
        return self._waited_before + float(getattr(trainer.train_dataloader, "seconds_waited", 0.0))

    def _checkpoint_seconds(self, trainer: Trainer) -> float:
        return self._checkpoint_seconds_before + float(getattr(trainer.checkpoint_callback, "seconds_waited", 0.0))

    def _write(self, trainer: Trainer) -> None:
        self.results.setdefault("metrics", {}).update(_figures(trainer))
        if trainer.is_global_zero:
            target = self.folder / RESULTS
            try:
                replace_file(target, json.dumps(self.results, indent=2) + "\n")
            except OSError as error:  # the checkpoint, which matters more, says whether the run is lost
                print(f"warning: {target} could not be written ({error.strerror})", file=sys.stderr)


class Stopwatch:
    """Seconds between each start and the stop that follows it, summed.

    Args:
        seconds: The sum so far.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._sum = seconds
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """The sum, up to this moment while running."""
        return self._sum + (time.perf_counter() - self._started if self._started is not None else 0.0)

    def start(self) -> None:
        """Run; again from here if running already."""
        self.stop()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Stand still."""
        self._sum, self._started = self.seconds, None


def _refuse_changed_files(trainer: Trainer) -> None:
    if isinstance(data := getattr(trainer, "datamodule", None), ImageDataModule):
        data.remembered_times.refuse_changed()


def _figures(trainer: Trainer) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(("train/", "val/", "test/"))
    }
