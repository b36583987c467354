"""Stop a run on a signal, between two batches."""

import signal
import threading
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.run.safe_points import add_safe_points, highest_on_any_rank
from core.stopping import Stopped, exit_signals, received
from datamodules.loading.loader import WorkerError, lost_worker

LOST_WORKER = 1000  # sent to the other ranks instead of a signal's number, and above all of them


class Interruption(Callback):
    """Stops on the signals of `EXIT_STATUS`, between steps of training and batches of validation, test and prediction.

    Never stops within a batch, which would leave batch norm's running statistics and the epoch's metrics half updated.
    All ranks stop at the same batch, whichever has received the signal. A second SIGINT ends the process at once.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's signal handlers, which exit without a checkpoint and with status 0."""
        trainer._signal_connector = _Signals()  # type: ignore[assignment]  # has all that the Trainer calls
        add_safe_points(trainer)

    def on_safe_point(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise Stopped or WorkerError if any rank has received a signal or lost a data loading worker."""
        highest = highest_on_any_rank(trainer, LOST_WORKER if lost_worker.message else received.signal)
        if highest == LOST_WORKER:
            default = "Another process of this run has lost one that loads batches; see what it said."
            raise WorkerError(lost_worker.message or default, in_order=True)
        if highest:
            raise Stopped(highest, in_order=True)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop here too: all ranks have the same number of batches."""
        self.on_safe_point(trainer, pl_module)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the process that launched the other ranks exit last: Lightning kills it if one of them fails."""
        launcher: Any = trainer.strategy.launcher
        launches_scripts = hasattr(launcher, "cluster_environment")
        if not launches_scripts or not isinstance(exception, Stopped):
            return
        if not exception.in_order:
            launcher.kill(exception.signal)  # the other ranks may wait for this one
        elif not trainer.is_global_zero:
            exception.code = 0


class _Signals:
    """Defers signals while a Trainer runs, and restores their handlers afterwards.

    Lightning has no public way to leave its handlers out. Its handler of SIGTERM communicates with the other ranks from
    within the signal, and is installed before the first hook that could replace it.
    """

    received_sigterm = False  # read by Lightning

    def __init__(self) -> None:
        self._original_handlers: dict[int, Any] = {}

    def register_signal_handlers(self) -> None:
        if signal.getsignal(signal.SIGTERM) != received.note:  # the Trainer is used from Python, without a command
            received.reset()
        if threading.current_thread() is threading.main_thread():
            self._original_handlers = {number: signal.signal(number, received.note) for number in exit_signals()}
        received.is_deferred = lost_worker.is_deferred = True
        lost_worker.message = ""

    def teardown(self) -> None:
        received.is_deferred = lost_worker.is_deferred = False
        while self._original_handlers:
            signal.signal(*self._original_handlers.popitem())
