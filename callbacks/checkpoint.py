"""Write the best and the last checkpoint of a run."""

import math
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch.callbacks
from lightning.pytorch import LightningModule, Trainer

from callbacks.run.safe_points import (
    add_safe_points,
    highest_on_any_rank,
    stands_between_epochs,
    stands_between_steps,
)
from core.durable_file import link_whole, part_of, publish
from core.stopping import Stopped
from core.user_error import CommandError, UserError
from datamodules.loading.loader import WorkerError
from models.serialization.checkpoint import read_checkpoint
from models.training.monitor import Basis, basis, check_logged, direction, is_of_validation, still_holds

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"


class Checkpoint(lightning.pytorch.callbacks.Checkpoint):
    """Keeps `best.ckpt`, by a monitored metric, and `last.ckpt`.

    Both are written at safe points (`callbacks.run.safe_points`), after everything of a step or an epoch is logged, so
    that a run resumed from either continues bit for bit. The best is written before the step that follows its
    validation. The last is written after every epoch, on a signal, when a data loading worker dies, and every
    `every_minutes`. Training waits only for `torch.save`; a thread flushes the file to the disk and renames it. If a
    checkpoint cannot be written, training continues and the earlier file stays. A new best is also the last: one file
    with two names. The last before it is then kept as `previous.ckpt`.

    Before the first step, a file of a checkpoint's size is written as a trial; the first checkpoint is read back.
    A run that starts from another run's checkpoint also links that run's best, so that the better of both is tested.

    Lightning's `ModelCheckpoint` writes before an epoch's metrics are logged and a plateau schedule is stepped, ends
    the run when the disk is full, and forgets the best when the folder changes.

    Args:
        monitor: The metric that decides; `val/` ones are compared after each validation, others after each epoch.
        mode: Whether higher (`max`) or lower (`min`) is better; by default as the metric's name says.
        every_minutes: The longest time between two checkpoints.
        dirpath: The folder; on the command line always that of the run.

    Raises:
        UserError: If an argument is out of range or the metric's name does not say its direction;
            when training starts, if the folder cannot take a checkpoint; after an epoch, if the metric was not logged
            or the checkpoint cannot be read back.
        CommandError: After training, if its last checkpoint could not be written.
    """

    save_top_k = 1  # for loggers with `log_model`: one best is kept, and uploaded at the end unless they take `all`

    def __init__(
        self,
        monitor: str = "val/accuracy",
        mode: Literal["min", "max"] | None = None,
        every_minutes: float = 10.0,
        dirpath: Path | None = None,
    ) -> None:
        super().__init__()
        if every_minutes <= 0:
            raise UserError(f"checkpoint.every_minutes is {every_minutes}; give a positive number.")
        self.monitor = monitor
        self.mode = direction(monitor, mode, "checkpoint")
        self.every_minutes = every_minutes
        self.dirpath = dirpath
        self.best_model_path = self.last_model_path = ""  # empty until there is one
        self.best_model_score: float | None = None
        self.best_epoch: int | None = None  # counted from 0
        self.seconds_waited = 0.0  # time that training has waited for checkpoints
        self._basis: Basis = {}
        self._score: float | None = None  # measured since the last safe point
        self._resumed_from: Path | None = None  # until `_link_resumed_files`
        self._resumed_best: Path | None = None
        self._best_on_disk: tuple[str, float | None, int | None] = ("", None, None)  # path, score and epoch
        self._last_write = 0.0  # time.monotonic()
        self._is_training = self._is_read_back = False
        self._pending_write: Future[None] | None = None  # until `_finish_write`
        self._write_error = ""  # of the last finished write

    @property
    def state_key(self) -> str:
        """Return a constant: a run has one such callback, and Lightning asks around each hook of each batch."""
        return type(self).__qualname__

    # Before training: resume

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder, and what the metric is measured on."""
        add_safe_points(trainer)
        self.dirpath = self.dirpath or Path(trainer.default_root_dir) / "checkpoints"
        self._basis = basis(trainer, self.monitor, self.mode)

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far, and what its score was measured on."""
        best = {"best_model_path": self.best_model_path, "best_model_score": self.best_model_score}
        return best | {"best_epoch": self.best_epoch, "basis": self._basis, "score": self._score}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Find the resumed run's best checkpoint, if its score is comparable with new ones."""
        if trainer.state.fn != "fit" or trainer.ckpt_path is None:
            return
        self._resumed_from, self.last_model_path = Path(trainer.ckpt_path), str(self._file(LAST))
        state = checkpoint["callbacks"].get(self.state_key, {})
        score, resumed_basis = state.get("best_model_score"), _basis_of(checkpoint, state)
        self._score = state.get("score") if resumed_basis == self._basis else None
        if score is None or not still_holds(resumed_basis, self._basis, "the choice of the best checkpoint"):
            return
        for file in (self._resumed_from.with_name(BEST), Path(state["best_model_path"])):
            with suppress(UserError, KeyError):  # the file is missing, damaged or of another program
                best = read_checkpoint(file)["callbacks"][self.state_key]
                if (best["best_model_score"], best.get("basis")) == (score, state.get("basis")):
                    self._resumed_best = file
                    self._set_best(str(self._file(BEST)), score, state.get("best_epoch"))  # missing in older ones
                    return
        if trainer.is_global_zero:
            print(f"{self._resumed_from.with_name(BEST)} is lost or damaged; the best is looked for from here on")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the folder has room for a checkpoint."""
        self._last_write, self._is_training = time.monotonic(), False
        if trainer.is_global_zero:
            weights = sum(getattr(value, "nbytes", 0) for value in pl_module.state_dict().values())
            trained = sum(parameter.nbytes for parameter in pl_module.parameters() if parameter.requires_grad)
            averages = sum(hasattr(callback, "is_evaluated") for callback in trainer.callbacks)  # type: ignore[attr-defined]
            # Most optimizers keep two numbers for each weight that they train.
            check_checkpoint_fits(self._file(LAST).parent, weights * (1 + averages) + 2 * trained)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write checkpoints from here on: earlier, a user error may still end the start of the run."""
        self._link_resumed_files(trainer)
        self._best_on_disk = self.best_model_path, self.best_model_score, self.best_epoch
        self._is_training = True

    def _link_resumed_files(self, trainer: Trainer) -> None:
        """Link the checkpoint that this run starts from as its last, and the best beside it."""
        source, self._resumed_from = self._resumed_from, None
        if source is None or not trainer.is_global_zero:
            return
        best, last = self._file(BEST), self._file(LAST)
        best.parent.mkdir(parents=True, exist_ok=True)
        if self._resumed_best is not None and not best.exists():
            link_whole(self._resumed_best, best)
        is_same_run = source.parent.resolve() == last.parent.resolve()
        if not last.exists() or (is_same_run and not source.samefile(last)):
            link_whole(source, last)

    # During training: measure and choose

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metric's value, if validation measures it."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and is_of_validation(self.monitor):
            self._measure(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metric's value, if an epoch of training measures it."""
        check_logged(trainer.callback_metrics, self.monitor, "checkpoint")
        if not is_of_validation(self.monitor):
            self._measure(trainer)

    def _measure(self, trainer: Trainer) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        self._score = None if value is None else float(value)

    def on_safe_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if one is due."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # the Trainer declares it nowhere
            return
        score, self._score = self._score, None
        is_best = score is not None and self._is_better(trainer, score)
        if is_best:
            epoch = trainer.current_epoch - stands_between_epochs(trainer)
            self._set_best(str(self._file(BEST)), score, epoch)
        due = is_best or stands_between_epochs(trainer)
        if due or highest_on_any_rank(trainer, time.monotonic() - self._last_write > 60 * self.every_minutes):
            self._write(trainer, is_best=is_best)

    def _is_better(self, trainer: Trainer, score: float) -> bool:
        self._finish_write(trainer)  # which restores the best before it if it has failed
        best = self.best_model_score
        return not math.isnan(score) and (best is None or (score > best if self.mode == "max" else score < best))

    def _set_best(self, path: str, score: float | None, epoch: int | None) -> None:
        self.best_model_path, self.best_model_score, self.best_epoch = path, score, epoch

    def forget_best(self) -> None:
        """Choose among later checkpoints only, because another kind of weights is evaluated from here on."""
        self._best_on_disk = "", None, None
        self._set_best(*self._best_on_disk)

    # Write: save, then flush and rename in a thread, then wait for the thread

    def _write(self, trainer: Trainer, *, is_best: bool = False) -> None:
        """Save a checkpoint and start to publish it; `_finish_write` waits for the result."""
        self._finish_write(trainer)
        started, part, result = time.monotonic(), part_of(self._file(LAST)), Future[None]()
        try:
            trainer.save_checkpoint(part)
            result.set_result(None)
        except OSError as error:
            result.set_exception(error)
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other ranks wait
        if trainer.is_global_zero and result.exception() is None:
            if not self._is_read_back:
                _check_readable(part, self._file(BEST if is_best else LAST))
                self._is_read_back = True
            thread = ThreadPoolExecutor(1)
            result = thread.submit(self._publish, part, is_best)
            thread.shutdown(wait=False)
        self._pending_write, self._last_write = result, time.monotonic()
        self.seconds_waited += self._last_write - started

    def _publish(self, part: Path, is_best: bool) -> None:
        """Flush a checkpoint to the disk and give it its names."""
        best, last, previous = map(self._file, (BEST, LAST, PREVIOUS))
        try:
            if is_best:
                if last.exists():
                    link_whole(last, previous)
                link_whole(part, best)
            publish(part, last)
            if not is_best:
                previous.unlink(missing_ok=True)
        finally:
            part.unlink(missing_ok=True)

    def _finish_write(self, trainer: Trainer) -> None:
        """Wait until the checkpoint is on the disk; if it could not be written, restore the best before it."""
        if self._pending_write is None:
            return
        started, error = time.monotonic(), self._pending_write.exception()
        self._pending_write = None
        if error is not None and not isinstance(error, OSError):
            raise error
        message, path = (error.strerror or str(error)) if error else "", str(self._file(LAST))
        if trainer.is_global_zero and message and message != self._write_error:
            print(f"warning: {path} could not be written ({message}); training goes on", file=sys.stderr)
        failed = bool(highest_on_any_rank(trainer, bool(message)))
        self._write_error = message or ("another process could not write it" if failed else "")
        if failed:
            self._set_best(*self._best_on_disk)
        else:
            self._best_on_disk = self.best_model_path, self.best_model_score, self.best_epoch
            self.last_model_path = path
            for logger in trainer.loggers if trainer.is_global_zero else []:
                logger.after_save_checkpoint(self)  # type: ignore[arg-type]  # has the attributes that they read
        self.seconds_waited += time.monotonic() - started

    def last_on_disk(self, trainer: Trainer) -> Path | None:
        """Return the last checkpoint, once it is on the disk; all ranks must call this."""
        self._finish_write(trainer)
        return Path(self.last_model_path) if self.last_model_path else None

    def _file(self, name: str) -> Path:
        assert self.dirpath is not None, "setup comes before"
        return Path(self.dirpath) / name

    # The end of training

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the last checkpoint, if training stopped between two steps."""
        # All ranks must write together: only if the exception is raised on all of them, or there is one rank.
        is_lone_worker_error = isinstance(exception, WorkerError) and trainer.world_size == 1
        in_order = isinstance(exception, Stopped | WorkerError) and (exception.in_order or is_lone_worker_error)
        if not self._is_training or not in_order or not stands_between_steps(trainer):
            return
        if not trainer.validating:
            self.on_safe_point(trainer, pl_module)
        if trainer.validating or not stands_between_epochs(trainer):
            self._write(trainer)
        self._finish_write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the last write; from here on only a failed write is tried again."""
        self._is_training = False
        self._finish_write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Try a failed write again; raise CommandError if it fails again."""
        self._link_resumed_files(trainer)
        if self._write_error:
            self._write(trainer)
            self._finish_write(trainer)
        if self._write_error:
            raise CommandError(
                f"Training is over, but {self._file(LAST)} could not be written ({self._write_error}) and is of an "
                "earlier time; free space and go on from there with --resume."
            )


def _check_readable(part: Path, path: Path) -> None:
    try:
        read_checkpoint(part, verify=False)
    except UserError as error:
        part.unlink()
        raise UserError(
            f"{path} could not be read again: {error.__cause__ or error}; keep only plain types and tensors in the "
            "state of callbacks and modules."
        ) from error


def _basis_of(checkpoint: dict[str, Any], state: dict[str, Any]) -> Basis:
    """Return what the best score was measured on; for a checkpoint without a basis, as its configuration says."""
    config = checkpoint.get("config", {})
    if "basis" in state or not config.get("checkpoint"):
        return cast(Basis, state.get("basis", {}))
    arguments, average = config["checkpoint"].get("init_args", {}), config.get("weight_average") or {}
    names = {"metric": arguments.get("monitor"), "mode": arguments.get("mode")}
    return names | {"weight_average": average.get("class_path", "").rpartition(".")[2] or None}


def check_checkpoint_fits(folder: Path, size: int) -> None:
    """Raise UserError unless a file of `size` bytes can be written in the folder."""
    trial = folder / ".trial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(bytes(size))
    except OSError as error:
        raise UserError(
            f"The run's folder {folder} cannot take a checkpoint of {size / 1e6:,.1f} MB: {error.strerror}; free space "
            "there or choose another place with --runs."
        ) from error
    finally:
        trial.unlink(missing_ok=True)
