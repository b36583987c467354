"""The places in a training where nothing is half done, so that it can be left and resumed.

Lightning has no public way to call a callback there, nor to resume exactly. All that this project overrides of its
loops is in this file, and a test names each method that a later release no longer has.
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

    It is called after each optimizer step and the validation that follows it, and after each epoch, when its figures
    are logged and its schedules are stepped. Lightning's own hooks come before that: a checkpoint written in them lacks
    an epoch's curves and a plateau schedule's last step.

    A training that is resumed from a safe point, or from within a validation, goes on as if it had never stopped.
    Lightning skips the validation that was due, and the rest of an epoch that was to end early.

    A validation that is due between batches of one optimizer step waits for that step, so that a checkpoint holds the
    weights that were validated; Lightning would validate the weights before the step. The weights at `max_steps` are
    validated, too.
    """
    loop = trainer.fit_loop
    if not isinstance(loop, _Epochs):  # the loops stay, with the data that the Trainer has given them
        loop.epoch_loop.automatic_optimization.__class__ = _Steps
        loop.epoch_loop.__class__ = _Batches
        loop.__class__ = _Epochs


def validate_after_this_step(trainer: Trainer) -> None:
    """Let a validation follow the step of the batch that is being trained, whether one is due or not."""
    if isinstance(loop := trainer.fit_loop.epoch_loop, _Batches):
        loop.validation_waits = trainer.enable_validation


def stands_between_steps(trainer: Trainer) -> bool:
    """True if no training batch is half done, and no gradient waits for those of further batches."""
    loop = trainer.fit_loop.epoch_loop
    assert isinstance(loop, _Batches), "safe points are added before"
    batches = loop.batch_progress.current
    return batches.ready == batches.completed and not (batches.ready and loop.is_accumulating())


def stands_between_epochs(trainer: Trainer) -> bool:
    """True if no epoch is half done."""
    epochs = trainer.fit_loop.epoch_progress.current
    return epochs.ready == epochs.completed


def highest_in_any_process(trainer: Trainer, here: int) -> int:
    """The highest value of a number over all processes; every process has to call this."""
    if trainer.world_size == 1:
        return here
    highest: Tensor = trainer.strategy.reduce(tensor(here, device=trainer.strategy.root_device), reduce_op="max")
    return int(highest)


class _Epochs(_FitLoop):
    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        # Lightning tries the validation out also before a run goes on between epochs, and forgets the last figures.
        self.trainer.num_sanity_val_steps = 0

    @property
    def done(self) -> bool:
        epochs: Any = self.epoch_progress.current
        return epochs.ready == epochs.processed and super().done  # a resumed epoch ends like any other

    @property
    def may_stop(self) -> bool:
        """True if training is to stop, and has the least epochs and steps that were asked for."""
        return self.trainer.should_stop and self._can_stop_early

    def run(self) -> None:
        data, current = getattr(self.trainer, "datamodule", None), self._counts()[1]
        steps, most = self.epoch_loop.global_step, self.max_steps
        has_stopped = any(getattr(callback, "has_stopped", False) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        goes_on = not has_stopped and (most == -1 or steps < most)
        if isinstance(data, ImageDataModule) and data.place[0] < current.processed and goes_on:
            for counts in self._counts():  # the last epoch was cut off, and goes on
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
        assert isinstance(batches, _Batches), "add_safe_points has made it one"
        if not (current.processed < current.ready and batches.resume_epoch()):
            for counts in self._counts():
                counts.ready = counts.started = counts.processed
            # Lightning takes a run of so many steps for one that was broken off within an epoch.
            self._restarting = self.epoch_loop.restarting = False
        super().reset()

    def _counts(self) -> tuple[Any, Any]:
        return self.epoch_progress.total, self.epoch_progress.current

    def on_advance_end(self) -> None:
        self._restarting = False  # the epoch ends like any other
        super().on_advance_end()
        call_safe_point(self.trainer)


class _Batches(_TrainingEpochLoop):
    first_batch = 0  # the batch that an epoch was resumed with, from which on gradients are accumulated
    validation_waits = False  # for the end of the step
    _validation_due = False  # in a resumed training
    _is_validated = False  # in a resumed training, whose validation was done, but for what follows it

    def resume_epoch(self) -> bool:
        """Find the place in a broken epoch again, in batches as they are now; False if it is at the epoch's start."""
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
        """True if the gradient of the last batch waits for those of further batches."""
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
        # Lightning would guess from the counts whether a validation is due; here that is known.
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
        self.validation_waits = due and self._should_accumulate() and not loop.may_stop  # without that step
        return due and not self.validation_waits

    def on_advance_end(self, data_fetcher: Any) -> None:
        super().on_advance_end(data_fetcher)
        if not self._is_training_done and stands_between_steps(self.trainer):  # else the epoch's end follows
            call_safe_point(self.trainer)

    def on_save_checkpoint(self) -> dict[str, Any]:
        validating, batches = self.trainer.validating, self.val_loop.batch_progress
        return super().on_save_checkpoint() | {
            "validating": validating,
            # A ModelCheckpoint writes after a validation's figures are logged.
            "validated": validating and batches.is_last_batch and batches.current.ready == batches.current.completed,
            # A schedule or a callback may look in a resumed epoch at a figure that was logged before.
            "figures": {name: value.clone() for name, value in self.trainer.callback_metrics.items()},
        }

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self.trainer.callback_metrics.update(state_dict.get("figures", {}))
        self._validation_due = state_dict.get("validating", False)
        self._is_validated = state_dict.get("validated", False)
        batches = self.batch_progress
        if batches.current.ready > batches.current.completed:
            # It was saved in on_train_batch_end, by which the batch is all but done.
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
