"""The stock DataLoader, with a clock, and a sentence for each way in which its workers fail."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from itertools import islice
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Never

from torch import Tensor
from torch.utils.data import DataLoader, default_convert

from core.user_error import CommandError, UserError

PATIENCE_SECONDS = 300.0  # how long a batch may take before its worker counts as stopped
NO_SHARED_MEMORY = (
    "The shared memory in /dev/shm, where batches are handed over, is full: use --data.num_workers 0 or a smaller "
    "--data.batch_size, or give the container more with --shm-size."
)


def available_cores() -> int:
    """The cores that this process may use; on a shared machine these are often fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerError(CommandError):
    """A process that loads batches has died or stands still.

    With `in_order`, it is raised between two steps, in all processes of a training.
    """

    def __init__(self, sentence: str, *, in_order: bool = False) -> None:
        self.in_order = in_order
        super().__init__(sentence)


class WorkerStoppedError(WorkerError):
    """A process that loads batches stands still."""


class LostWorker:
    """A worker that has died during a training that asks for it between two steps, to leave in order."""

    is_asked_for = False
    sentence = ""


lost_worker = LostWorker()


class TimedLoader(DataLoader[Any]):
    """A DataLoader that knows how long its user has waited for batches, and says why a worker fails.

    Signals to the whole job do not reach the workers, which the process that trains ends in order. If one dies in a
    training that asks for `lost_worker`, this process loads the batches up to the end of the step; otherwise it is a
    WorkerError, and also if a worker gives nothing for `PATIENCE_SECONDS`.
    """

    seconds_waited = 0.0
    _processes: Sequence[BaseProcess] = ()

    def __init__(self, dataset: Any, *, num_workers: int = 0, **options: Any) -> None:
        collate = _in_shared_memory if num_workers else None
        options |= {"worker_init_fn": _leave_process_group, "collate_fn": collate}
        super().__init__(dataset, num_workers=num_workers, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # what torch's own private class is used for
        places, number = copy(self.sampler), 0
        batches = self._start()
        while True:
            start = time.perf_counter()
            try:
                batch = self._next(batches)
            except StopIteration:
                return
            except WorkerError as error:
                wake_workers()
                if isinstance(error, WorkerStoppedError) or not lost_worker.is_asked_for:
                    raise
                lost_worker.sentence = lost_worker.sentence or str(error)
                self._processes = ()
                batches = (_converted(self.dataset[place]) for place in islice(places, number, None))
                continue
            self.seconds_waited += time.perf_counter() - start
            number += 1
            yield batch

    def _start(self) -> Iterator[Any]:
        others, handler = {*active_children()}, signal.getsignal(signal.SIGCHLD)
        batches: Iterator[Any] = super().__iter__()
        self._processes = [*{*active_children()} - others] or self._processes
        if signal.getsignal(signal.SIGCHLD) != handler:
            signal.signal(signal.SIGCHLD, handler)  # torch's would raise in the middle of a training step
        return batches

    def _next(self, batches: Iterator[Any]) -> Any:
        if not self._processes:
            return next(batches)
        try:
            if any(process.exitcode for process in self._processes):
                raise EOFError  # the batches of a dead worker that are on their way cannot be fetched
            with _patience():
                return next(batches)
        except (UserError, WorkerError) as error:
            # Said in a worker, it ends the worker's traceback.
            raise type(error)(str(error).rstrip().rsplit(f"{type(error).__name__}: ")[-1]) from None
        except (RuntimeError, OSError, EOFError) as error:
            # Connections to a worker are lost a moment before it has ended.
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


def wake_workers() -> None:
    """Let processes that load batches end, also stopped ones: Python would wait for them at its own end."""
    for child in active_children():
        if child.daemon and child.pid:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGCONT)


@contextmanager
def _patience() -> Iterator[None]:
    """Wait `PATIENCE_SECONDS` at most; torch's `timeout` leaves out the time in which a worker hands over a file."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set an alarm
        yield
        return
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _give_up(*_: object) -> Never:
    raise WorkerStoppedError(
        f"A process that loads batches has given none for {PATIENCE_SECONDS:.0f} s: it was stopped, or its disk "
        "does not answer; see to that, or use --data.num_workers 0."
    )


def _leave_process_group(_: int) -> None:
    os.setpgid(0, 0)


def _converted(batch: Any) -> Any:
    return default_convert(batch)  # type: ignore[no-untyped-call]


def _in_shared_memory(batch: Any) -> Any:
    """Put a batch into the memory where it is handed over: torch does so in a thread, where a failure is lost."""
    batch = _converted(batch)
    for part in batch if isinstance(batch, list | tuple) else (batch,):
        if isinstance(part, Tensor):
            try:
                part.share_memory_()  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                raise WorkerError(NO_SHARED_MEMORY) from error
    return batch


def way_of_death(exit_code: int) -> str:
    """How a child process has ended, as `subprocess` and `multiprocessing` give it.

    Example:
        >>> way_of_death(-11), way_of_death(3)
        ('was ended by SIGSEGV', 'ended with status 3')
    """
    if exit_code == -signal.SIGKILL:
        return "was killed, as the system does when memory runs out"
    return f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with status {exit_code}"
