"""Progress on the terminal, or in a log file."""

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

TEXTS, FIGURE = 60, 20  # columns of a terminal that the bar with its texts takes, and each figure beside it


class ProgressBar(RichProgressBar):
    """A bar with rate and time left on a terminal; elsewhere, a line for each epoch.

    The bar shows the time left of the epoch, `left` that of the whole training, should it run to its end.
    Epochs are counted from 0. A `breakpoint()` ends the bar, which would draw over the debugger; lines follow.

    Args:
        refresh_rate: Redraws of the bar per second.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        self._writes_lines = not get_console().is_terminal
        self._started = self._next_redraw = 0.0
        self._batches = 0  # of this epoch and start: a resumed run may begin in the middle of an epoch
        super().__init__(refresh_rate=0 if self._writes_lines else refresh_rate)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Be what `breakpoint()` calls."""
        super().setup(trainer, pl_module, stage)
        self._debugger, sys.breakpointhook = sys.breakpointhook, self

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        super().teardown(trainer, pl_module, stage)
        sys.breakpointhook = self._debugger

    @property
    def __call__(self) -> Callable[..., Any]:
        """The debugger, once the bar has ended: a property, because it stops where it is called from."""
        if self.progress:
            self.progress.stop()
        self.disable()
        self._writes_lines = True
        return self._debugger

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Lightning's columns, with a short bar that leaves room for the figures."""
        columns: list[ProgressColumn] = super().configure_columns(trainer)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = 10
        return columns

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """As many figures as fit beside the bar, without the logger's version."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if left := self._time_left(trainer, trainer.current_epoch):
            metrics["left"] = left
        return dict(list(metrics.items())[: max(1, (get_console().width - TEXTS) // FIGURE)])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure, perhaps in the middle of an epoch."""
        super().on_train_start(trainer, pl_module)
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar a few times a second: each time costs more than a small network's forward pass."""
        self._batches += 1
        now, is_last = time.perf_counter(), batch_idx + 1 >= trainer.num_training_batches
        if self.is_enabled and (is_last or now >= self._next_redraw):
            self._next_redraw = now + 1 / self.refresh_rate
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the epoch's bar; write the line of the epoch before, whose figures are complete now."""
        super().on_train_epoch_start(trainer, pl_module)
        self._write_line(trainer)
        self._next_redraw = 0.0  # the first batch moves the bar, so that the last can tell the rate
        self._started, self._batches = time.perf_counter(), 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar; write the line of the last epoch."""
        super().on_train_end(trainer, pl_module)
        self._write_line(trainer)

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning's own, for which there is no public hook, says "/-2" where epochs have no limit.
        limit = "" if self.trainer.max_epochs in (None, -1) else f"/{self.trainer.max_epochs - 1}"
        return f"Epoch {current_epoch}{limit}".ljust(len(self.validation_description))

    def _rate(self) -> float | None:
        """Batches per second."""
        return self._batches / max(time.perf_counter() - self._started, 1e-9) if self._batches else None

    def _time_left(self, trainer: Trainer, epoch: int) -> str | None:
        """The time until the last epoch or step, whichever comes first, at the rate of this epoch."""
        rate, batches, limits = self._rate(), trainer.num_training_batches, []
        freezing = getattr(trainer.lightning_module, "freezing", None)
        if freezing is not None and epoch < freezing.last_change:
            return None  # all is trained from there on, at another rate
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            limits.append((trainer.max_epochs - trainer.current_epoch) * batches)
        if trainer.max_steps >= 0:
            limits.append((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
        return str(timedelta(seconds=round(max(0, min(limits)) / rate))) if rate and limits else None

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
