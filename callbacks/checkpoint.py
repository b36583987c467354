"""The best and the last checkpoint of a run."""

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
    highest_in_any_process,
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

    Both are written at safe points, after everything of a step or an epoch is logged, so that a run goes on from either
    as if it had never stopped: the best before the step that follows its measurement; the last after every epoch, when
    a signal ends the process, when the loading of batches fails, and every `every_minutes`. Training waits for
    `torch.save` alone. A file is replaced whole, by one that has reached the disk; if it cannot be written, training
    goes on and the earlier file stays. A new best is the last too, one file with two names; the last before it is then
    kept as `previous.ckpt`.

    Before the first step the folder is tried with a file of a checkpoint's size, and the first checkpoint is read back.
    A run that starts from another's checkpoint takes over that run's best, so that the better of both is tested.

    Lightning's `ModelCheckpoint` writes before an epoch's figures are logged and a plateau schedule is stepped, ends
    the run when the disk is full, and forgets the best when the folder changes.

    Args:
        monitor: The metric that decides; `val/` ones are compared after each validation, others after each epoch.
        mode: Whether higher (`max`) or lower (`min`) is better; by default as the metric's name says.
        every_minutes: The longest time between two checkpoints.
        dirpath: The folder; on the command line always that of the run.

    Raises:
        UserError: If an argument is out of its range or the metric's name does not say its direction;
            when training starts, if the folder cannot take a checkpoint; after an epoch, if the metric was not logged
            or the checkpoint cannot be read back.
        CommandError: After training, if its end could not be written.
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
        self.seconds_waited = 0.0  # by training, for checkpoints
        self._basis: Basis = {}
        self._score: float | None = None  # measured since the last safe point
        self._source: Path | None = None  # the checkpoint that training goes on from, until it is taken over
        self._source_of_best: Path | None = None
        self._best_on_disk: tuple[str, float | None, int | None] = ("", None, None)
        self._written = 0.0
        self._is_training = self._is_read_back = False
        self._publishing: Future[None] | None = None  # the last write, until it is settled
        self._failure = ""  # of the last write that is settled

    @property
    def state_key(self) -> str:
        """A constant, because Lightning asks for it around each hook of each batch; a run has one such callback."""
        return type(self).__qualname__

    def forget_best(self) -> None:
        """Choose among later checkpoints alone, because another kind of weights is evaluated from here on."""
        self.best_model_path, self.best_model_score, self.best_epoch = self._best_on_disk = "", None, None

    def last_on_disk(self, trainer: Trainer) -> Path | None:
        """The last checkpoint, once it has reached the disk; all processes must ask."""
        self._settle(trainer)
        return Path(self.last_model_path) if self.last_model_path else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder, and what the metric is measured on."""
        add_safe_points(trainer)
        self.dirpath = self.dirpath or Path(trainer.default_root_dir) / "checkpoints"
        self._basis = basis(trainer, self.monitor, self.mode)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and what it was measured on."""
        best = {"best_model_path": self.best_model_path, "best_model_score": self.best_model_score}
        return best | {"best_epoch": self.best_epoch, "basis": self._basis, "score": self._score}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the best, if later ones are measured like it."""
        if trainer.state.fn != "fit" or trainer.ckpt_path is None:
            return
        self._source, self.last_model_path = Path(trainer.ckpt_path), str(self._file(LAST))
        state = checkpoint["callbacks"].get(self.state_key, {})
        score, before = state.get("best_model_score"), _basis_of(checkpoint, state)
        self._score = state.get("score") if before == self._basis else None
        if score is None or not still_holds(before, self._basis, "the choice of the best checkpoint"):
            return
        for file in (self._source.with_name(BEST), Path(state["best_model_path"])):
            with suppress(UserError, KeyError):  # it is lost, damaged or of another program
                best = read_checkpoint(file)["callbacks"][self.state_key]
                if (best["best_model_score"], best.get("basis")) == (score, state.get("basis")):
                    self._source_of_best = file
                    self.best_model_path, self.best_model_score = str(self._file(BEST)), score
                    self.best_epoch = state.get("best_epoch")  # which older checkpoints lack
                    return
        if trainer.is_global_zero:
            print(f"{self._source.with_name(BEST)} is lost or damaged; the best is looked for from here on")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Try whether the folder takes a checkpoint."""
        self._written, self._is_training = time.monotonic(), False
        if trainer.is_global_zero:
            weights = sum(getattr(value, "nbytes", 0) for value in pl_module.state_dict().values())
            trained = sum(parameter.nbytes for parameter in pl_module.parameters() if parameter.requires_grad)
            averages = sum(hasattr(each, "is_evaluated") for each in trainer.callbacks)  # type: ignore[attr-defined]
            # Most optimizers keep two numbers for each that they train.
            check_checkpoint_fits(self._file(LAST).parent, weights * (1 + averages) + 2 * trained)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write from here on: before, a run may be refused, and a resumed run is not yet where its checkpoint is."""
        self._take_over(trainer)
        self._best_on_disk = self.best_model_path, self.best_model_score, self.best_epoch
        self._is_training = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over: from here on only a failed write is tried again."""
        self._is_training = False
        self._settle(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metric, if validation measures it."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and is_of_validation(self.monitor):
            self._note_score(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metric, if an epoch of training measures it."""
        check_logged(trainer.callback_metrics, self.monitor, "checkpoint")
        if not is_of_validation(self.monitor):
            self._note_score(trainer)

    def _note_score(self, trainer: Trainer) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        self._score = None if value is None else float(value)

    def on_safe_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint if one is due."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # the Trainer declares it nowhere
            return
        score, self._score = self._score, None
        is_best = score is not None and self._is_better(trainer, score)
        if is_best:
            self.best_model_path, self.best_model_score = str(self._file(BEST)), score
            self.best_epoch = trainer.current_epoch - stands_between_epochs(trainer)
        due = is_best or stands_between_epochs(trainer)
        if due or highest_in_any_process(trainer, time.monotonic() - self._written > 60 * self.every_minutes):
            self._write(trainer, is_best=is_best)

    def _is_better(self, trainer: Trainer, score: float) -> bool:
        self._settle(trainer)  # or the best may be one that was not kept
        best = self.best_model_score
        return not math.isnan(score) and (best is None or (score > best if self.mode == "max" else score < best))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the last checkpoint, if training stands where it can go on."""
        # Alone, or when a signal has reached all: other processes have to write with us.
        alone = isinstance(exception, WorkerError) and trainer.world_size == 1
        in_order = alone or (isinstance(exception, Stopped | WorkerError) and exception.in_order)
        if not self._is_training or not in_order or not stands_between_steps(trainer):
            return
        if not trainer.validating:
            self.on_safe_point(trainer, pl_module)
        if trainer.validating or not stands_between_epochs(trainer):
            self._write(trainer)
        self._settle(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Try a failed write again, and say so if it fails again."""
        self._take_over(trainer)
        if self._failure:
            self._write(trainer)
            self._settle(trainer)
        if self._failure:
            raise CommandError(
                f"Training is over, but {self._file(LAST)} could not be written ({self._failure}) and is of an earlier "
                "time; free space and go on from there with --resume."
            )

    def _take_over(self, trainer: Trainer) -> None:
        """Keep the checkpoint that a new run starts from as its own last, and the best beside it."""
        source, self._source = self._source, None
        if source is None or not trainer.is_global_zero:
            return
        best, last = self._file(BEST), self._file(LAST)
        best.parent.mkdir(parents=True, exist_ok=True)
        if self._source_of_best is not None and not best.exists():
            link_whole(self._source_of_best, best)
        here = source.parent.resolve() == last.parent.resolve()
        if not last.exists() or (here and not source.samefile(last)):
            link_whole(source, last)

    def _write(self, trainer: Trainer, *, is_best: bool = False) -> None:
        """Write a checkpoint and begin to publish it; `_settle` waits for the end of that."""
        self._settle(trainer)
        started, part, written = time.monotonic(), part_of(self._file(LAST)), Future[None]()
        try:
            trainer.save_checkpoint(part)
            written.set_result(None)
        except OSError as error:
            written.set_exception(error)
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other processes wait
        if trainer.is_global_zero and written.exception() is None:
            if not self._is_read_back:
                _check_readable(part, self._file(BEST if is_best else LAST))
                self._is_read_back = True
            thread = ThreadPoolExecutor(1)
            written = thread.submit(self._publish, part, is_best)
            thread.shutdown(wait=False)
        self._publishing, self._written = written, time.monotonic()
        self.seconds_waited += self._written - started

    def _publish(self, part: Path, is_best: bool) -> None:
        """Force a checkpoint to the disk and give it its names."""
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

    def _settle(self, trainer: Trainer) -> None:
        """Wait until the checkpoint has reached the disk; if that fails in any process, the best before it stays."""
        if self._publishing is None:
            return
        started, error = time.monotonic(), self._publishing.exception()
        self._publishing = None
        if error is not None and not isinstance(error, OSError):
            raise error
        failure, path = (error.strerror or str(error)) if error else "", str(self._file(LAST))
        if trainer.is_global_zero and failure and failure != self._failure:
            print(f"warning: {path} could not be written ({failure}); training goes on", file=sys.stderr)
        failed = bool(highest_in_any_process(trainer, bool(failure)))
        self._failure = failure or ("another process could not write it" if failed else "")
        if failed:
            self.best_model_path, self.best_model_score, self.best_epoch = self._best_on_disk
        else:
            self._best_on_disk = self.best_model_path, self.best_model_score, self.best_epoch
            self.last_model_path = path
            for logger in trainer.loggers if trainer.is_global_zero else []:
                logger.after_save_checkpoint(self)  # type: ignore[arg-type]  # they read what this has, too
        self.seconds_waited += time.monotonic() - started

    def _file(self, name: str) -> Path:
        assert self.dirpath is not None, "setup comes before"
        return Path(self.dirpath) / name


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
    """What the best was measured on; of an early checkpoint, as far as its configuration says."""
    config = checkpoint.get("config", {})
    if "basis" in state or not config.get("checkpoint"):
        return cast(Basis, state.get("basis", {}))
    arguments, average = config["checkpoint"].get("init_args", {}), config.get("weight_average") or {}
    names = {"metric": arguments.get("monitor"), "mode": arguments.get("mode")}
    return names | {"weight_average": average.get("class_path", "").rpartition(".")[2] or None}


def check_checkpoint_fits(folder: Path, size: int) -> None:
    """Check that a folder takes a file of a size, by writing one."""
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
