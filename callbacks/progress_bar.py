"""Progress on the terminal, or in a log file."""

import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich import get_console
from rich.progress import BarColumn, ProgressColumn

TEXTS = 76  # columns of a terminal that the texts around the bar and one figure take

FIGURE = 20  # columns that each further figure takes

Metrics = dict[str, int | str | float | dict[str, float]]


class ProgressBar(RichProgressBar):
    """A bar with rate and time left on a terminal; where there is none, a line for each epoch.

    The bar tells the time left of the epoch, `left` that of the whole training, should it run to its end.

    Args:
        refresh_rate: Redraws of the bar per second.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        self._lines = not get_console().is_terminal
        self._started = 0.0
        self._batches = 0
        self._next_redraw = 0.0
        super().__init__(refresh_rate=0 if self._lines else refresh_rate)

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Lightning's columns, with a bar that leaves room for the texts, so that nothing is wrapped."""
        columns: list[ProgressColumn] = super().configure_columns(trainer)
        room = get_console().width - TEXTS - FIGURE * (_figures_that_fit() - 1)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = min(40, max(4, room))
        return columns

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Metrics:
        """The figures beside the bar, as many as fit, without the logger's version: the folder is told at the end."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if left := self._time_left(trainer):
            metrics["left"] = left
        return dict(list(metrics.items())[: _figures_that_fit()])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when training began."""
        super().on_train_start(trainer, pl_module)
        self._started, self._batches = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, unless that would not be seen: it costs more than a small network's forward pass."""
        self._batches += 1
        if self._is_due(last=batch_idx + 1 >= trainer.num_training_batches):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _is_due(self, last: bool) -> bool:
        now = time.perf_counter()
        if self.is_disabled or not (last or now >= self._next_redraw):
            return False
        self._next_redraw = now + 1 / self.refresh_rate
        return True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the epoch's bar; write the line of the one before, whose figures are complete now."""
        super().on_train_epoch_start(trainer, pl_module)
        self._next_redraw = 0.0  # the first batch moves the bar, so that the last can tell the rate
        self._write_line(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar; write the line of the last epoch."""
        super().on_train_end(trainer, pl_module)
        self._write_line(trainer)

    def _get_train_description(self, current_epoch: int) -> str:
        description = super()._get_train_description(current_epoch)
        return description.replace("/-2", "") if self.trainer.max_epochs == -1 else description

    def _rate(self) -> float | None:
        """Batches per second, of those of this start alone: a run that is taken up may begin in an epoch's middle."""
        return self._batches / max(time.perf_counter() - self._started, 1e-9) if self._batches else None

    def _time_left(self, trainer: Trainer) -> str | None:
        """Until the last epoch or step, whichever comes first."""
        rate, batches = self._rate(), trainer.num_training_batches
        limits = []
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            limits.append((trainer.max_epochs - trainer.current_epoch) * batches)
        if trainer.max_steps >= 0:
            limits.append((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
        return str(timedelta(seconds=round(max(0, min(limits)) / rate))) if rate and limits else None

    def _write_line(self, trainer: Trainer) -> None:
        rate = self._rate()
        if not self._lines or not trainer.is_global_zero or rate is None:
            return
        figures = (f"{name} {float(value):.4f}" for name, value in sorted(trainer.progress_bar_metrics.items()))
        line = [f"epoch {trainer.current_epoch}", *figures, f"{rate:.1f} batches/s"]
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            line[0] += f"/{trainer.max_epochs}"
        if left := self._time_left(trainer):
            line.append(f"at most {left} left")
        print("  ".join(line), flush=True)


def _figures_that_fit() -> int:
    return max(1, 1 + (get_console().width - TEXTS - 8) // FIGURE)
