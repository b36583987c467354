"""Leaving on a signal, when nothing is half done."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from callbacks.run.peers import script_launcher
from callbacks.run.safe_points import add_safe_points, highest_in_any_process
from datamodules.loading.loader import WorkerError, lost_worker

# What the process leaves with on each signal that it heeds.
EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


LOST_WORKER = 1000  # what processes tell each other besides the numbers of signals


def heeded() -> list[signal.Signals]:
    """The signals that end this process in order: not SIGHUP where it is ignored, as `nohup` asks for."""
    return [number for number in EXIT_STATUS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class Stopped(SystemExit):
    """A signal ends the process.

    Args:
        signal_number: The signal.
        in_order: Whether between two batches, so that what was reached can be saved.
    """

    def __init__(self, signal_number: int, *, in_order: bool) -> None:
        self.signal = signal.Signals(signal_number)
        self.in_order = in_order
        super().__init__(EXIT_STATUS[self.signal])


class _Told:
    """What this process was told by signals."""

    signal = 0
    interrupts = 0
    waits = False
    """Whether a loop runs, which leaves between two batches."""

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, and leave at once where nothing would heed it."""
        if number == signal.SIGINT:
            self.interrupts += 1
            if self.interrupts > 1:
                os._exit(EXIT_STATUS[signal.SIGINT])
            if self.waits and sys.stderr.isatty():  # written at once: print may be what was interrupted
                os.write(sys.stderr.fileno(), b"\nleaving after this batch; Ctrl-C again leaves at once\n")
        self.signal = number
        if not self.waits:
            raise Stopped(number, in_order=False)


_told = _Told()


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Let the signals of `EXIT_STATUS` end the process, with what it has to clean up and with a status of its own.

    Where the loop of a Trainer with an `Interruption` runs, they do so between two batches. One that comes when a loop
    is just over is heeded in the next.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may choose what signals do
        yield
        return
    _told.signal, _told.interrupts, _told.waits = 0, 0, False
    before = {number: signal.signal(number, _told.note) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interruption(Callback):
    """Heeds the signals of `EXIT_STATUS` between steps of training and batches of validation, test and prediction.

    Never inside a batch, which would leave batch norm's statistics and the epoch's figures half updated. All processes
    leave at the same batch, whichever of them has received the signal. A second SIGINT leaves at once.

    Raises:
        Stopped: In `Trainer.fit` and the like, when a signal has come.
        WorkerError: Likewise, when a process that loads batches has died.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's handlers: they leave without a checkpoint and with status 0."""
        trainer._signal_connector = _Signals(trainer)
        add_safe_points(trainer)

    def on_safe_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave, if any process has received a signal or lost a worker."""
        highest = highest_in_any_process(trainer, LOST_WORKER if lost_worker.sentence else _told.signal)
        if highest == LOST_WORKER:
            other = "Another process of this run has lost one that loads batches; see what it said."
            raise WorkerError(lost_worker.sentence or other, in_order=True)
        if highest:
            raise Stopped(highest, in_order=True)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leave likewise; all processes have equally many batches."""
        self.on_safe_point(trainer, pl_module)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the process that has started the others leave last: it would be killed if one of them failed."""
        launcher = script_launcher(trainer)
        if launcher is None or not isinstance(exception, Stopped):
            return
        if not exception.in_order:
            launcher.kill(exception.signal)  # they may wait for this one
        elif not trainer.is_global_zero:
            exception.code = 0


class _Signals(_SignalConnector):
    """Lets signals wait while a Trainer runs, and restores their handlers afterwards.

    Lightning has no public way to leave its handlers out: that of SIGTERM communicates with the other processes from
    within the signal, and is set before the first hook that could replace it.
    """

    def register_signal_handlers(self) -> None:
        for number in heeded():
            self._original_handlers[number] = before = signal.getsignal(number)
            if before != _told.note:  # a Trainer that is used in Python
                _told.signal, _told.interrupts = 0, 0
            self._register_signal(number, _told.note)
        _told.waits = lost_worker.is_asked_for = True
        lost_worker.sentence = ""

    def teardown(self) -> None:
        _told.waits = lost_worker.is_asked_for = False
        super().teardown()
