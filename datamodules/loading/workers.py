"""Watch the worker processes of a DataLoader, and raise an error with a clear message when one fails."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from itertools import islice
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Never

from torch import Tensor
from torch.utils.data import default_convert

from core.user_error import UserError
from datamodules.loading.loader import WorkerError, lost_worker, wake_workers

PATIENCE_SECONDS = 300.0  # a worker that takes longer for a batch counts as stopped
NO_SHARED_MEMORY = (
    "The shared memory in /dev/shm, where batches are handed over, is full: use --data.num_workers 0 or a smaller "
    "--data.batch_size, or give the container more with --shm-size."
)


class WorkerStoppedError(WorkerError):
    """A worker has returned no batch for `PATIENCE_SECONDS`."""


class Workers:
    """The worker processes of one DataLoader.

    If a worker dies, WorkerError is raised. If `lost_worker.is_deferred`, the main process loads the remaining batches
    itself instead, until the training run ends at the next step. A worker that returns nothing for `PATIENCE_SECONDS`
    raises WorkerStoppedError in both cases.
    """

    _processes: Sequence[BaseProcess] = ()

    def batches(self, start: Callable[[], Iterator[Any]], dataset: Any, sampler: Iterable[Any]) -> Iterator[Any]:
        """Start an epoch by `start`, which is `DataLoader.__iter__`, and return an iterator over its batches."""
        indices = copy(sampler)
        processes_before = {*active_children()}
        handler = signal.getsignal(signal.SIGCHLD)
        batches: Iterator[Any] | None = None
        try:
            batches = self._call(start)
        except WorkerError as error:  # a persistent worker has died since the last epoch
            _defer(error)
        # Persistent workers are started in the first epoch only.
        self._processes = [*{*active_children()} - processes_before] or self._processes
        if signal.getsignal(signal.SIGCHLD) != handler:
            signal.signal(signal.SIGCHLD, handler)  # PyTorch's handler would raise in the middle of a training step
        return self._watched(batches, dataset, indices)

    def _watched(self, batches: Iterator[Any] | None, dataset: Any, indices: Iterable[Any]) -> Iterator[Any]:
        number = 0
        while batches is not None:
            try:
                batch = self._call(partial(next, batches))
            except StopIteration:
                return
            except WorkerError as error:
                _defer(error)
                break
            number += 1
            yield batch
        for batch_indices in islice(indices, number, None):
            yield default_convert(dataset[batch_indices])  # type: ignore[no-untyped-call]

    def _call(self, function: Callable[[], Any]) -> Any:
        """Call a function that waits for the workers, and explain its errors."""
        try:
            if any(process.exitcode for process in self._processes):
                raise EOFError  # batches that a dead worker has already sent can no longer be received
            with _time_limit():
                return function()
        except (UserError, WorkerError) as error:
            # PyTorch puts a worker's traceback in front of the message.
            raise type(error)(str(error).rstrip().rsplit(f"{type(error).__name__}: ")[-1]) from None
        except (RuntimeError, OSError, EOFError) as error:
            # The connection to a worker breaks a moment before the worker has ended.
            wait([process.sentinel for process in self._processes], 1.0)
            for process in self._processes:
                process.join(0.1)
                if process.exitcode == -signal.SIGBUS:
                    raise WorkerError(NO_SHARED_MEMORY) from error
                if process.exitcode:
                    raise WorkerError(
                        f"A process that loads batches (pid {process.pid}) {way_of_death(process.exitcode)}: use fewer "
                        "with --data.num_workers, a smaller --data.batch_size, or fewer cores with taskset -c 0."
                    ) from error
            raise


def _defer(error: WorkerError) -> None:
    """Record the death of a worker if that is deferred; otherwise raise the error."""
    wake_workers()
    if isinstance(error, WorkerStoppedError) or not lost_worker.is_deferred:
        raise error
    lost_worker.message = lost_worker.message or str(error)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise WorkerStoppedError after `PATIENCE_SECONDS`; DataLoader's `timeout` misses a worker that stops mid-send."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set an alarm
        yield
        return
    previous = signal.signal(signal.SIGALRM, _raise_stopped)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _raise_stopped(*_: object) -> Never:
    raise WorkerStoppedError(
        f"A process that loads batches has given none for {PATIENCE_SECONDS:.0f} s: it was stopped, or its disk "
        "does not answer; see to that, or use --data.num_workers 0."
    )


def leave_process_group(worker_id: int) -> None:
    """Move a worker out of the job's process group, so that signals to the job reach the main process only."""
    os.setpgid(0, 0)


def to_shared_memory(batch: Any) -> Any:
    """Put a batch in shared memory; PyTorch does so in a background thread, where the error of a full one is lost."""
    batch = default_convert(batch)  # type: ignore[no-untyped-call]
    for part in batch if isinstance(batch, list | tuple) else (batch,):
        if isinstance(part, Tensor):
            try:
                part.share_memory_()  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                raise WorkerError(NO_SHARED_MEMORY) from error
    return batch


def way_of_death(exit_code: int) -> str:
    """Describe the exit code of a child process, as `subprocess` and `multiprocessing` report it.

    Example:
        >>> way_of_death(-11), way_of_death(3)
        ('was ended by SIGSEGV', 'ended with status 3')
    """
    if exit_code == -signal.SIGKILL:
        return "was killed, as the system does when memory runs out"
    return f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with status {exit_code}"
