"""Show progress on the terminal or in a log file."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich import get_console
from rich.progress import BarColumn, ProgressColumn

BAR_COLUMNS, METRIC_COLUMNS = 60, 20  # terminal columns of the bar with its texts, and of each metric beside it


class ProgressBar(RichProgressBar):
    """Shows a bar with rate and time left on a terminal; prints one line per epoch elsewhere.

    The bar shows the time left of the epoch; `left` is that of the whole run, without early stopping. Epochs are
    counted from 0. A `breakpoint()` ends the bar, which would draw over the debugger; lines follow.

    Args:
        refresh_rate: Redraws of the bar per second.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        self._writes_lines = not get_console().is_terminal
        self._started = self._next_redraw = 0.0
        self._batches = 0  # done by this process in this epoch, which may be a resumed one
        super().__init__(refresh_rate=0 if self._writes_lines else refresh_rate)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install this object as the hook that `breakpoint()` calls."""
        super().setup(trainer, pl_module, stage)
        self._debugger, sys.breakpointhook = sys.breakpointhook, self

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar and restore the hook."""
        super().teardown(trainer, pl_module, stage)
        sys.breakpointhook = self._debugger

    @property
    def __call__(self) -> Callable[..., Any]:
        """End the bar and return the debugger; a property, so that the debugger stops in the caller's frame."""
        if self.progress:
            self.progress.stop()
        self.disable()
        self._writes_lines = True
        return self._debugger

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Return Lightning's columns, with a short bar that leaves room for metrics."""
        columns: list[ProgressColumn] = super().configure_columns(trainer)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = 10
        return columns

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return as many metrics as fit beside the bar, without the logger's version."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if left := self._time_left(trainer, trainer.current_epoch):
            metrics["left"] = left
        return dict(list(metrics.items())[: max(1, (get_console().width - BAR_COLUMNS) // METRIC_COLUMNS)])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, perhaps within a resumed epoch."""
        super().on_train_start(trainer, pl_module)
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Redraw the bar a few times per second: a redraw takes longer than a small network's forward pass."""
        self._batches += 1
        now, is_last = time.perf_counter(), batch_idx + 1 >= trainer.num_training_batches
        if self.is_enabled and (is_last or now >= self._next_redraw):
            self._next_redraw = now + 1 / self.refresh_rate
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the epoch's bar; print the line of the previous epoch, whose metrics are now complete."""
        super().on_train_epoch_start(trainer, pl_module)
        self._write_line(trainer)
        self._next_redraw = 0.0  # the first batch redraws the bar, so that the last can show the rate
        self._started, self._batches = time.perf_counter(), 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar; print the line of the last epoch."""
        super().on_train_end(trainer, pl_module)
        self._write_line(trainer)

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning's description, which has no public hook, shows "/-2" if the number of epochs has no limit.
        limit = "" if self.trainer.max_epochs in (None, -1) else f"/{self.trainer.max_epochs - 1}"
        return f"Epoch {current_epoch}{limit}".ljust(len(self.validation_description))

    def _rate(self) -> float | None:
        """Return batches per second."""
        return self._batches / max(time.perf_counter() - self._started, 1e-9) if self._batches else None

    def _time_left(self, trainer: Trainer, epoch: int) -> str | None:
        """Return the time until `max_epochs` or `max_steps`, whichever comes first, at the rate of this epoch."""
        rate, batches = self._rate(), trainer.num_training_batches
        batches_left = []
        freezing = getattr(trainer.lightning_module, "freezing", None)
        if freezing is not None and epoch < freezing.last_change:
            return None  # once all layers are trained, the rate will be lower
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            batches_left.append((trainer.max_epochs - trainer.current_epoch) * batches)
        if trainer.max_steps >= 0:
            batches_left.append((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
        if not rate or not batches_left:
            return None
        return str(timedelta(seconds=round(max(0, min(batches_left)) / rate)))

    def _write_line(self, trainer: Trainer) -> None:
        rate = self._rate()
        if not self._writes_lines or not trainer.is_global_zero or rate is None:
            return
        epoch = trainer.current_epoch - 1
        line = [self._get_train_description(epoch).lower().rstrip()]
        line += [f"{name} {float(value):.4f}" for name, value in sorted(trainer.progress_bar_metrics.items())]
        line.append(f"{rate:.1f} batches/s")
        if left := self._time_left(trainer, epoch):
            line.append(f"at most {left} left")
        print("  ".join(line), flush=True)
