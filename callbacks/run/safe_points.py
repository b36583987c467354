"""Safe points: the moments between two steps or epochs at which a run can stop and later resume bit for bit.

Lightning has no public way to call a callback there, nor to resume exactly. This file holds all overrides of its loops,
and a test names each overridden method that a later release no longer has.
"""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor, tensor
from torch.optim import Optimizer

from datamodules.base import ImageDataModule


def add_safe_points(trainer: Trainer) -> None:
    """Let the Trainer call `on_safe_point(trainer, pl_module)` of every callback that has it.

    The Trainer calls it after each optimizer step and the validation that follows, and after each epoch, once its
    metrics are logged and its schedules are stepped. Lightning calls its own hooks earlier: a checkpoint written there
    lacks an epoch's curves and a plateau schedule's last step.

    A run resumed from a safe point, or from within a validation, continues bit for bit. Lightning alone would skip the
    validation that was due, and the rest of an epoch that was to end early.

    A validation that is due between two accumulated batches waits for the optimizer step, so that a checkpoint holds
    the weights that were validated; Lightning would validate the weights before the step. The weights at `max_steps`
    are validated, too.
    """
    loop = trainer.fit_loop
    if not isinstance(loop, _Epochs):  # only their classes change: the Trainer has already given the loops their data
        loop.epoch_loop.automatic_optimization.__class__ = _Steps
        loop.epoch_loop.__class__ = _Batches
        loop.__class__ = _Epochs


def validate_after_this_step(trainer: Trainer) -> None:
    """Validate after the optimizer step of the current batch, even if no validation is due."""
    loop = trainer.fit_loop.epoch_loop
    if isinstance(loop, _Batches):
        loop.validation_waits = trainer.enable_validation


def stands_between_steps(trainer: Trainer) -> bool:
    """True if no training batch is in progress and no accumulated gradient waits for an optimizer step."""
    loop = trainer.fit_loop.epoch_loop
    assert isinstance(loop, _Batches), "safe points are added before"
    batches = loop.batch_progress.current
    return batches.ready == batches.completed and not (batches.ready and loop.is_accumulating())


def stands_between_epochs(trainer: Trainer) -> bool:
    """True if no epoch is in progress."""
    epochs = trainer.fit_loop.epoch_progress.current
    return epochs.ready == epochs.completed


def highest_on_any_rank(trainer: Trainer, number: int) -> int:
    """Return the highest value of a number over all ranks; every rank must call this."""
    if trainer.world_size == 1:
        return number
    highest: Tensor = trainer.strategy.reduce(tensor(number, device=trainer.strategy.root_device), reduce_op="max")
    return int(highest)


class _Epochs(_FitLoop):
    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        # Lightning also runs a sanity check in a run resumed between epochs, which would erase the last metrics.
        self.trainer.num_sanity_val_steps = 0

    @property
    def done(self) -> bool:
        epochs: Any = self.epoch_progress.current
        return epochs.ready == epochs.processed and super().done  # never within a resumed epoch

    @property
    def may_stop(self) -> bool:
        """True if training should stop and has reached `min_epochs` and `min_steps`."""
        return self.trainer.should_stop and self._can_stop_early

    def run(self) -> None:
        data, steps = getattr(self.trainer, "datamodule", None), self.epoch_loop.global_step
        has_stopped = any(getattr(callback, "has_stopped", False) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        continues = not has_stopped and (self.max_steps == -1 or steps < self.max_steps)
        if continues and isinstance(data, ImageDataModule) and data.place[0] < self._counts()[1].processed:
            for counts in self._counts():  # the run had ended within this epoch, which now continues
                counts.processed -= 1
                counts.completed = min(counts.completed, counts.processed)
            self.restarting = True
            if self.trainer.is_global_zero:
                print(
                    f"note: the run had ended at step {steps}, within epoch {data.place[0]}; its validation there has "
                    "counted for the best checkpoint, early stopping and plateau schedules, and a longer run has none"
                )
        super().run()

    def reset(self) -> None:
        current, batches = self._counts()[1], self.epoch_loop
        assert isinstance(batches, _Batches), "set by add_safe_points"
        if not (current.processed < current.ready and batches.resume_epoch()):
            for counts in self._counts():
                counts.ready = counts.started = counts.processed
            # Otherwise Lightning would treat a run that `max_steps` had ended as one stopped within an epoch.
            self._restarting = self.epoch_loop.restarting = False
        super().reset()

    def _counts(self) -> tuple[Any, Any]:
        return self.epoch_progress.total, self.epoch_progress.current

    def on_advance_end(self) -> None:
        self._restarting = False  # the end of a resumed epoch needs no special treatment
        super().on_advance_end()
        call_safe_point(self.trainer)


class _Batches(_TrainingEpochLoop):
    first_batch = 0  # the batch at which the epoch was resumed; gradient accumulation starts there
    validation_waits = False  # True if a validation follows at the end of the step
    _validation_due = False  # True in a run resumed before or within a validation
    _is_validated = False  # True in a run resumed after a validation's batches, but before the rest of that step

    def resume_epoch(self) -> bool:
        """Find the position in a resumed epoch, counted in batches of the current size; False at the epoch's start."""
        data, batches = getattr(self.trainer, "datamodule", None), self.batch_progress.current
        if isinstance(data, ImageDataModule):
            done = data.batches_done(int(self.trainer.num_training_batches))
            vars(batches).update(ready=done, started=done, processed=done, completed=done)
            if not data.place[1]:
                self._validation_due = self._is_validated = False
                return False
        self.first_batch = batches.completed
        return True

    def is_accumulating(self) -> bool:
        """True if the last batch's gradient is accumulated with those of further batches."""
        return self._should_accumulate()

    @property
    def _is_validation_done(self) -> bool:
        return not self._validation_due

    def _accumulated_batches_reached(self) -> bool:
        accumulated = self.batch_progress.current.ready - self.first_batch
        return bool(accumulated % self.trainer.accumulate_grad_batches == 0)

    def reset(self) -> None:
        super().reset()
        if not self.batch_progress.current.ready:
            self.first_batch = 0
        # Otherwise Lightning would guess from its counts whether a validation is due; `_validation_due` says so.
        self.restarting = False

    def advance(self, data_fetcher: Any) -> None:
        if self._validation_due:
            self._validation_due = False
        else:
            super().advance(data_fetcher)

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        if self._is_validated:
            self._is_validated = False
            return False
        loop = self.trainer.fit_loop
        assert isinstance(loop, _Epochs)
        is_last = self.trainer.enable_validation and 0 <= self.max_steps <= self.global_step
        due = self.validation_waits or is_last or super()._should_check_val_fx(data_fetcher)
        self.validation_waits = due and self._should_accumulate() and not loop.may_stop
        return due and not self.validation_waits

    def on_advance_end(self, data_fetcher: Any) -> None:
        super().on_advance_end(data_fetcher)
        if not self._is_training_done and stands_between_steps(self.trainer):  # otherwise `_Epochs` calls it
            call_safe_point(self.trainer)

    def on_save_checkpoint(self) -> dict[str, Any]:
        validating, batches = self.trainer.validating, self.val_loop.batch_progress
        return super().on_save_checkpoint() | {
            "validating": validating,
            # A `ModelCheckpoint` of Lightning writes at the end of a validation, after its metrics are logged.
            "validated": validating and batches.is_last_batch and batches.current.ready == batches.current.completed,
            # In a resumed epoch, a schedule or callback may read a metric that was logged before the checkpoint.
            "figures": {name: value.clone() for name, value in self.trainer.callback_metrics.items()},
        }

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self.trainer.callback_metrics.update(state_dict.get("figures", {}))
        self._validation_due = state_dict.get("validating", False)
        self._is_validated = state_dict.get("validated", False)
        batches = self.batch_progress
        if batches.current.ready > batches.current.completed:
            # The checkpoint was saved in on_train_batch_end, after the batch but before Lightning counts it.
            batches.increment_completed()
            self._validation_due = True


class _Steps(_AutomaticOptimization):
    def _make_zero_grad_fn(self, batch_idx: int, optimizer: Optimizer) -> Callable[[], None] | None:
        loop = self.trainer.fit_loop.epoch_loop
        assert isinstance(loop, _Batches)
        return super()._make_zero_grad_fn(batch_idx - loop.first_batch, optimizer)


def call_safe_point(trainer: Trainer) -> None:
    """Call `on_safe_point` of every callback that has it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # the Trainer declares none
        if hasattr(callback, "on_safe_point"):
            callback.on_safe_point(trainer, trainer.lightning_module)
