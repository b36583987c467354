"""Leaving on a signal, when nothing is half done."""

import signal
import threading
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.run.safe_points import add_safe_points, highest_in_any_process
from core.stopping import Stopped, exit_signals, received
from datamodules.loading.loader import WorkerError, lost_worker

LOST_WORKER = 1000  # what processes tell each other besides the numbers of signals


class Interruption(Callback):
    """Heeds the signals of `EXIT_STATUS` between steps of training and batches of validation, test and prediction.

    Never inside a batch, which would leave batch norm's statistics and the epoch's figures half updated. All processes
    leave at the same batch, whichever of them has received the signal. A second SIGINT leaves at once.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's handlers: they leave without a checkpoint and with status 0."""
        trainer._signal_connector = _Signals()  # type: ignore[assignment]  # all that the Trainer asks of it
        add_safe_points(trainer)

    def on_safe_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave, if any process has received a signal or lost a worker."""
        highest = highest_in_any_process(trainer, LOST_WORKER if lost_worker.message else received.signal)
        if highest == LOST_WORKER:
            other = "Another process of this run has lost one that loads batches; see what it said."
            raise WorkerError(lost_worker.message or other, in_order=True)
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
        launcher: Any = trainer.strategy.launcher
        if not hasattr(launcher, "cluster_environment") or not isinstance(exception, Stopped):
            return  # no script has started others, or it is no signal
        if not exception.in_order:
            launcher.kill(exception.signal)  # they may wait for this one
        elif not trainer.is_global_zero:
            exception.code = 0


class _Signals:
    """Lets signals wait while a Trainer runs, and restores their handlers afterwards.

    Lightning has no public way to leave its handlers out: that of SIGTERM communicates with the other processes from
    within the signal, and is set before the first hook that could replace it.
    """

    received_sigterm = False  # for Lightning

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def register_signal_handlers(self) -> None:
        if signal.getsignal(signal.SIGTERM) != received.note:  # a Trainer that is used in Python
            received.reset()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, received.note) for number in exit_signals()}
        received.is_deferred = lost_worker.is_deferred = True
        lost_worker.message = ""

    def teardown(self) -> None:
        received.is_deferred = lost_worker.is_deferred = False
        while self._before:
            signal.signal(*self._before.popitem())
