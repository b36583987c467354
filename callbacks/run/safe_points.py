"""The places in a training where nothing is half done, so that it can be left and taken up again."""

from collections.abc import Callable
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _is_max_limit_reached
from torch import Tensor, tensor
from torch.optim import Optimizer

from datamodules.base import ImageDataModule


def add_safe_points(trainer: Trainer) -> None:
    """Let the Trainer call `on_safe_point(trainer, pl_module)` of every callback that has it.

    It is called after each optimizer step, with the validation that follows it, and after each epoch, with all that
    belongs to it: figures are logged and schedules are stepped. Lightning's own hooks come before that, so that what
    is saved in them lacks an epoch's curves and a plateau schedule's last step.

    A training that is taken up from such a place, or from within a validation, goes on as it would have without a
    break. Lightning leaves out the validation that was due, and the rest of an epoch that was to end early.

    So that what is saved here are the weights that were validated, a validation that is due between batches whose
    gradients belong together waits for their step; Lightning's would look at the weights before it. The weights that
    `max_steps` ends with are validated too, wherever that is.
    """
    if not isinstance(trainer.fit_loop, _Epochs):
        trainer.fit_loop = _Epochs(trainer)


def validate_after_this_step(trainer: Trainer) -> None:
    """Let a validation follow the step of the batch that is being trained, whether one is due or not."""
    if isinstance(loop := trainer.fit_loop.epoch_loop, _Batches):
        loop._validation_waits = trainer.enable_validation


def stands_between_steps(trainer: Trainer) -> bool:
    """Whether no training batch is half done, and no gradient is waiting for those of further batches."""
    loop = trainer.fit_loop.epoch_loop
    batches = loop.batch_progress.current
    return batches.ready == batches.completed and not (batches.ready and loop._should_accumulate())


def stands_between_epochs(trainer: Trainer) -> bool:
    """Whether no epoch is half done."""
    epochs = trainer.fit_loop.epoch_progress.current
    return epochs.ready == epochs.completed


def highest_in_any_process(trainer: Trainer, here: int) -> int:
    """The highest of a number over all processes, each of which must ask."""
    if trainer.world_size == 1:
        return here
    highest: Tensor = trainer.strategy.reduce(tensor(here, device=trainer.strategy.root_device), reduce_op="max")
    return int(highest)


class _Epochs(_FitLoop):
    def __init__(self, trainer: Trainer) -> None:
        replaced = trainer.fit_loop
        super().__init__(trainer, replaced.min_epochs, replaced.max_epochs)
        self.epoch_loop = _Batches(trainer, replaced.min_steps, replaced.max_steps)
        self._data_source = replaced._data_source
        self.epoch_loop.automatic_optimization = _Steps(trainer)
        self.epoch_loop.val_loop._data_source = replaced.epoch_loop.val_loop._data_source

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        # Lightning tries the validation out also before a run goes on between epochs, and forgets the last figures.
        self.trainer.num_sanity_val_steps = 0

    @property
    def done(self) -> bool:
        epochs = cast(_ProcessedTracker, self.epoch_progress.current)
        return epochs.ready == epochs.processed and super().done  # one that was left in its middle ends like any other

    def run(self) -> None:
        data, current = getattr(self.trainer, "datamodule", None), self._epochs()[1]
        steps, most = self.epoch_loop.global_step, self.max_steps
        has_stopped = any(getattr(callback, "has_stopped", False) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        goes_on = not has_stopped and (most == -1 or steps < most)
        if isinstance(data, ImageDataModule) and data.place[0] < current.processed and goes_on:
            for tracker in self._epochs():  # the last epoch was cut off, and goes on
                tracker.processed -= 1
                tracker.completed = min(tracker.completed, tracker.processed)
            self.restarting = True
            if self.trainer.is_global_zero:
                print(
                    f"note: the run had ended at step {steps}, within epoch {data.place[0]}; its validation there has "
                    "counted for the best checkpoint, early stopping and plateau schedules, and a longer run has none"
                )
        super().run()

    def reset(self) -> None:
        current = self._epochs()[1]
        if not (current.processed < current.ready and self.epoch_loop.take_up()):
            for tracker in self._epochs():
                tracker.ready = tracker.started = tracker.processed
            # Lightning takes a run of so many steps for one that was broken off within an epoch.
            self._restarting = self.epoch_loop.restarting = False
        super().reset()

    def _epochs(self) -> tuple[_ProcessedTracker, _ProcessedTracker]:
        progress = self.epoch_progress
        return cast(_ProcessedTracker, progress.total), cast(_ProcessedTracker, progress.current)

    def on_advance_end(self) -> None:
        self._restarting = False  # the epoch ends like any other
        super().on_advance_end()
        _call_safe_point(self.trainer)


class _Batches(_TrainingEpochLoop):
    _validation_due = False  # in a training that is taken up
    _is_validated = False  # there, of that validation all but what follows it was done
    _validation_waits = False  # for the step
    first_batch = 0
    """The batch that an epoch was taken up with, from which on batches are accumulated."""

    def take_up(self) -> bool:
        """Find the place in a broken epoch again, in batches as they are now."""
        data = getattr(self.trainer, "datamodule", None)
        batches = cast(_ProcessedTracker, self.batch_progress.current)
        if isinstance(data, ImageDataModule):
            done = data.batches_done(int(self.trainer.num_training_batches))
            batches.ready = batches.started = batches.processed = batches.completed = done
            if not data.place[1]:
                self._validation_due = self._is_validated = False
                return False
        self.first_batch = batches.completed
        return True

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
        # Lightning would now guess from the counts whether a validation is due; that is known.
        self.restarting = False

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if self._validation_due:
            self._validation_due = False
        else:
            super().advance(data_fetcher)

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        if self._is_validated:
            self._is_validated = False
            return False
        is_last = self.trainer.enable_validation and _is_max_limit_reached(self.global_step, self.max_steps)
        due = self._validation_waits or is_last or super()._should_check_val_fx(data_fetcher)
        stops = self.trainer.should_stop and self.trainer.fit_loop._can_stop_early  # without that step
        self._validation_waits = due and self._should_accumulate() and not stops
        return due and not self._validation_waits

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        super().on_advance_end(data_fetcher)
        if not self._is_training_done and stands_between_steps(self.trainer):  # else the epoch's end follows
            _call_safe_point(self.trainer)

    def on_save_checkpoint(self) -> dict[str, Any]:
        # A schedule or a callback may look in a resumed epoch at a figure that was logged before the break.
        figures = {name: value.clone() for name, value in self.trainer.callback_metrics.items()}
        validating, batches = self.trainer.validating, self.val_loop.batch_progress
        validated = validating and batches.is_last_batch and batches.current.ready == batches.current.completed
        places = {
            "validating": validating,
            "validated": validated,
        }  # by a ModelCheckpoint, after the figures are logged
        return super().on_save_checkpoint() | places | {"figures": figures}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self.trainer.callback_metrics.update(state_dict.get("figures", {}))
        self._validation_due, self._is_validated = (
            state_dict.get("validating", False),
            state_dict.get("validated", False),
        )
        batches = self.batch_progress
        if batches.current.ready > batches.current.completed:
            # It was saved in on_train_batch_end, by which the batch is all but done.
            batches.increment_completed()
            self._validation_due = True


class _Steps(_AutomaticOptimization):
    def _make_zero_grad_fn(self, batch_idx: int, optimizer: Optimizer) -> Callable[[], None] | None:
        return super()._make_zero_grad_fn(batch_idx - self.trainer.fit_loop.epoch_loop.first_batch, optimizer)


def _call_safe_point(trainer: Trainer) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # the Trainer declares none
        if hasattr(callback, "on_safe_point"):
            callback.on_safe_point(trainer, trainer.lightning_module)
