"""Leaving on a signal, when nothing is half done."""

import os
import signal
import sys
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.safe_points import add_safe_points, highest_in_any_process, stands_between_steps

EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}
"""What the process leaves with on each signal that it heeds."""


class Stopped(SystemExit):
    """A signal ends the process between two batches.

    Args:
        signal_number: The signal.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal = signal.Signals(signal_number)
        super().__init__(EXIT_STATUS[self.signal])


class Interruption(Callback):
    """Heeds SIGTERM, SIGUSR1 and SIGINT between steps of training and batches of validation, test and prediction.

    Never inside a batch, which would leave batch norm's statistics and the epoch's figures half updated. Of several
    processes, all leave at the same batch, whichever was told. A second SIGINT leaves at once.

    Raises:
        Stopped: In `Trainer.fit` and the like, when a signal has come.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the place of Lightning's handlers, of which one leaves without a checkpoint and with status 0."""
        trainer._signal_connector = self._signals = _Signals(trainer)
        add_safe_points(trainer)

    def on_safe_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave, if any process was told to."""
        self._leave_if_told(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *rest: Any) -> None:
        """Leave, if any process was told to; all have equally many batches."""
        self._leave_if_told(trainer)

    def on_test_batch_start(self, trainer: Trainer, *rest: Any) -> None:
        """Leave, if any process was told to."""
        self._leave_if_told(trainer)

    def on_predict_batch_start(self, trainer: Trainer, *rest: Any) -> None:
        """Leave, if any process was told to."""
        self._leave_if_told(trainer)

    def _leave_if_told(self, trainer: Trainer) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not stands_between_steps(trainer):
            return  # a validation between batches whose gradients belong together
        if told := highest_in_any_process(trainer, self._signals.told):
            raise Stopped(told)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the process that has started the others leave last: it would be killed if one of them failed."""
        launched = isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)
        if isinstance(exception, Stopped) and launched and not trainer.is_global_zero:
            exception.code = 0


class _Signals(_SignalConnector):
    """Notes a signal while a loop runs; before and after, each does what it did before."""

    told = 0

    def register_signal_handlers(self) -> None:
        for number in EXIT_STATUS:
            self._original_handlers[number] = signal.getsignal(number)
            self._register_signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.told == number:
                os._exit(EXIT_STATUS[signal.SIGINT])
            if sys.stderr.isatty():  # written at once: print may be what was interrupted
                os.write(sys.stderr.fileno(), b"\nleaving after this batch; Ctrl-C again leaves at once\n")
        self.told = number
