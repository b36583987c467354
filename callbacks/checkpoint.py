"""The best and the last checkpoint of a run."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from callbacks.interruption import Stopped
from callbacks.safe_points import (
    add_safe_points,
    highest_in_any_process,
    stands_between_epochs,
    stands_between_steps,
)
from datamodules.loader import WorkerError
from models.checkpoint import read_checkpoint
from models.durable_file import copy_whole

BEST, LAST = "best.ckpt", "last.ckpt"


class CheckpointError(RuntimeError):
    """Training is over, and what it came to could not be written."""


class Checkpoint(lightning.pytorch.callbacks.Checkpoint):
    """Keeps `best.ckpt`, by a monitored figure, and `last.ckpt`.

    Both are written where nothing is half done, after what belongs to an epoch is logged, so that a run goes on from
    either as if it had never stopped. The last one is written after every epoch, when a signal ends the process, when
    the loading of batches fails, and whenever so many minutes have passed. A file is replaced whole, and only by one
    that has reached the disk; if none can be written, training goes on, and what was there is kept.

    Before the first step the folder is tried with a file of the size of a checkpoint, and the first checkpoint is read
    back, so that a run which could not be kept ends before it has cost anything.

    A run that starts from another's checkpoint takes over that run's best, so that the best of both is tested in the
    end and the new folder is complete by itself.

    Lightning's `ModelCheckpoint` writes before an epoch's figures are logged and a plateau schedule is stepped, ends
    the run when the disk is full, and forgets the best when the folder changes.

    Args:
        monitor: The figure that decides.
        mode: Whether it is to be `max` or `min`.
        every_minutes: The longest time between two checkpoints.
        dirpath: The folder; on the command line always that of the run.

    Raises:
        MisconfigurationException: If an argument is out of its range; when training starts, if the folder cannot take
            a checkpoint; after an epoch, if the figure was not logged or the checkpoint cannot be read back.
        CheckpointError: After training, if its end could not be written.
    """

    def __init__(
        self,
        monitor: str = "val/accuracy",
        mode: str = "max",
        every_minutes: float = 10.0,
        dirpath: Path | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("max", "min"):
            raise MisconfigurationException(f"checkpoint.mode is {mode}; give max or min.")
        if every_minutes <= 0:
            raise MisconfigurationException(f"checkpoint.every_minutes is {every_minutes}; give a positive number.")
        self.monitor = monitor
        self.mode = mode
        self.every_minutes = every_minutes
        self.dirpath = dirpath
        self.best_model_path = ""
        """The file of the best, if there is one."""
        self.best_model_score: float | None = None
        """Its figure."""
        self.save_top_k = 1
        """What loggers with `log_model` ask for: one best is kept, and uploaded at the end unless they take `all`."""
        self._written = 0.0
        self._read_back = False
        self._failure = ""
        self._is_training = False

    @property
    def state_key(self) -> str:
        """A constant, because Lightning asks for it around each hook of each batch; a run has one such callback."""
        return type(self).__qualname__

    def forget_best(self) -> None:
        """Look for the best from here on, because what is evaluated is another thing than before."""
        self.best_model_path, self.best_model_score = "", None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder."""
        add_safe_points(trainer)
        self.dirpath = self.dirpath or Path(trainer.default_root_dir) / "checkpoints"

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"best_model_path": self.best_model_path, "best_model_score": self.best_model_score}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the best, and keep what a new run starts from as its own last, until it has got further.

        Raises:
            MisconfigurationException: If the folder cannot take them.
        """
        if trainer.state.fn != "fit" or trainer.ckpt_path is None:
            return
        source = Path(trainer.ckpt_path)
        state = checkpoint["callbacks"].get(self.state_key, {})
        ours, score = self._file(BEST), state.get("best_model_score")
        places = source.with_name(BEST), Path(state.get("best_model_path", ""))
        theirs = next((place for place in places if _best_score(place, self.state_key) == score), None)
        if score is not None and theirs is not None:
            self.best_model_path, self.best_model_score = str(ours), score
        elif score is not None and trainer.is_global_zero:
            print(f"{places[0]} is lost or damaged; the best is looked for from here on")
        if trainer.is_global_zero:
            last = self._file(LAST)
            try:
                ours.parent.mkdir(parents=True, exist_ok=True)
                if self.best_model_path and theirs is not None and not ours.exists():
                    copy_whole(theirs, ours)
                here = source.parent.resolve() == last.parent.resolve()
                if not last.exists() or (here and not source.samefile(last)):
                    copy_whole(source, last)
            except OSError as error:
                raise MisconfigurationException(
                    f"The run's folder {ours.parent} cannot take the checkpoint that training goes on from: "
                    f"{error.strerror}; free space there or choose another place with --runs."
                ) from error

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Try whether the folder takes a checkpoint.

        Raises:
            MisconfigurationException: If it does not.
        """
        self._written, self._is_training = time.monotonic(), False
        if not trainer.is_global_zero:
            return
        weights = sum(tensor.nbytes for tensor in pl_module.state_dict().values())
        trained = sum(parameter.nbytes for parameter in pl_module.parameters() if parameter.requires_grad)
        size = weights + 2 * trained  # most optimizers keep two numbers for each that they train
        trial = self._file(".trial")
        try:
            trial.parent.mkdir(parents=True, exist_ok=True)
            _take_space(trial, size)
        except OSError as error:
            raise MisconfigurationException(
                f"The run's folder {trial.parent} cannot take a checkpoint of {size / 1e6:,.1f} MB: {error.strerror}; "
                "free space there or choose another place with --runs."
            ) from error
        finally:
            trial.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write from here on: before, a resumed run is not yet where its checkpoint is."""
        self._is_training = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write no more, but what could not be written."""
        self._is_training = False

    def on_safe_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is due.

        Raises:
            MisconfigurationException: If the figure to monitor was not logged.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # the Trainer declares it nowhere
            return
        if stands_between_epochs(trainer):
            better = self._find_better(trainer)
            if better is not None:
                before = self.state_dict()
                self.best_model_path, self.best_model_score = str(self._file(BEST)), better
                if not self._write(trainer, BEST):
                    self.best_model_path, self.best_model_score = before.values()
            self._write(trainer, LAST)
        elif highest_in_any_process(trainer, time.monotonic() - self._written > 60 * self.every_minutes):
            self._write(trainer, LAST)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the last checkpoint, if training was left in order."""
        alone = trainer.world_size == 1  # others would have to write with us, but only a signal reaches all
        in_order = (
            exception.in_order if isinstance(exception, Stopped) else isinstance(exception, WorkerError) and alone
        )
        if not self._is_training or not in_order or not stands_between_steps(trainer):
            return
        if trainer.validating:
            self._write(trainer, LAST)
        else:
            self.on_safe_point(trainer, pl_module)
            if not stands_between_epochs(trainer):
                self._write(trainer, LAST)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the end of training could not be written.

        Raises:
            CheckpointError: If it could not, and still cannot.
        """
        if self._failure and not self._write(trainer, LAST):
            raise CheckpointError(
                f"Training is over, but {self._file(LAST)} could not be written ({self._failure}) and is of an earlier "
                "time; free space and go on from there with --resume."
            )

    def _find_better(self, trainer: Trainer) -> float | None:
        figures = trainer.callback_metrics
        if self.monitor not in figures:
            validated = any(name.startswith("val/") for name in figures)
            if self.monitor.startswith("val/") and not validated:
                return None  # training ended before the first validation
            raise MisconfigurationException(
                f"checkpoint.monitor is {self.monitor}, which is not logged; choose from "
                f"{', '.join(sorted(name for name in figures if '/' in name))}."
            )
        score, best = float(figures[self.monitor]), self.best_model_score
        if math.isnan(score):
            return None
        better = best is None or (score > best if self.mode == "max" else score < best)
        return score if better else None

    def _write(self, trainer: Trainer, name: str) -> bool:
        """Whether the checkpoint has reached the disk, the same in all processes."""
        path, failure = self._file(name), ""
        try:
            trainer.save_checkpoint(path)
        except OSError as error:
            failure = error.strerror or str(error)
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other processes wait
        if trainer.is_global_zero and failure and failure != self._failure:
            print(f"warning: {path} could not be written ({failure}); training goes on", file=sys.stderr)
        failed = bool(highest_in_any_process(trainer, bool(failure)))
        self._failure = failure or ("another process could not write it" if failed else "")
        if not failed and not self._read_back:
            self._read_back = True
            if trainer.is_global_zero:
                read_checkpoint(path)
        self._written = time.monotonic()
        for logger in trainer.loggers if trainer.is_global_zero and not failed else []:
            logger.after_save_checkpoint(self)  # type: ignore[arg-type]  # of a ModelCheckpoint they take what is here
        return not failed

    def _file(self, name: str) -> Path:
        assert self.dirpath is not None, "setup comes before"
        return Path(self.dirpath) / name


def _best_score(path: Path, key: str) -> float | None:
    """The score of the best checkpoint in a file, or None if it cannot be used."""
    try:
        score: float | None = read_checkpoint(path)["callbacks"][key]["best_model_score"]
    except (MisconfigurationException, KeyError):
        return None
    return score


def _take_space(path: Path, size: int) -> None:
    """Write a file of a size, as zeros."""
    block = bytes(2**20)
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
