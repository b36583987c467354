"""The stock DataLoader, with a clock, and a sentence for each way in which its workers fail."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from itertools import islice
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, default_convert

from core.command_error import CommandError
from core.user_error import UserError

PATIENCE_SECONDS = 300.0  # how long a batch may take before its worker counts as stopped

# What to do where memory has run out; who has as many workers as cores is told the latter.
WITH_FEWER_WORKERS = "use fewer with --data.num_workers, or a smaller --data.batch_size"
ON_FEWER_CORES = "start again on fewer cores, as with taskset -c 0"


class WorkerError(CommandError):
    """A process that loads batches has died or stands still.

    Args:
        sentence: What has happened, and what to do.
        in_order: Whether it is raised between two steps, in all processes of a training.
    """

    def __init__(self, sentence: str, *, in_order: bool = False) -> None:
        self.in_order = in_order
        super().__init__(sentence)


class LostWorker:
    """A worker that has died during a training which asks for it between two steps, to leave in order."""

    is_asked_for = False
    sentence = ""


lost_worker = LostWorker()


class TimedLoader(DataLoader[Any]):
    """A DataLoader that knows how long its user has waited for batches.

    What a worker process refuses is raised as it was said there, without the worker's traceback. Signals to the whole
    terminal or job do not reach the workers: it is for the process that trains to leave in order. If a worker dies in
    a training that asks for `lost_worker`, the batches up to the end of the step are loaded in this process.

    Args:
        dataset: What batches are taken from.
        num_workers: Processes that do so.
        remedy: What to do if one was killed.
        options: What `torch.utils.data.DataLoader` takes besides.

    Raises:
        UserError: While iterating, what a worker has refused.
        WorkerError: While iterating, if a worker has died, or gives nothing for `PATIENCE_SECONDS`.
    """

    seconds_waited = 0.0
    _processes: Sequence[BaseProcess] = ()

    def __init__(self, dataset: Any, *, num_workers: int = 0, remedy: str = WITH_FEWER_WORKERS, **options: Any) -> None:
        self.remedy = remedy
        super().__init__(
            dataset,
            num_workers=num_workers,
            timeout=PATIENCE_SECONDS if num_workers else 0,
            worker_init_fn=_leave_process_group,
            collate_fn=_shared if num_workers else None,
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # what torch's own private class is used for
        places, others = copy(self.sampler), active_children()
        batches: Iterator[Any] = super().__iter__()
        if started := [child for child in active_children() if child not in others]:
            self._processes = started
            _ends.heed()
        has_workers, number = self.num_workers > 0, 0
        clock = time.perf_counter
        while True:
            start = clock()
            try:
                with _waiting() if has_workers else nullcontext():
                    if has_workers and any(process.exitcode for process in self._processes):
                        raise RuntimeError("DataLoader worker has died")
                    batch = next(batches)
            except StopIteration:
                return
            except UserError as error:
                sentence = str(error).rstrip().rsplit(f"{type(error).__name__}: ")[-1]
                raise UserError(sentence) from None
            except (RuntimeError, OSError, EOFError) as error:
                if not has_workers or not (sentence := self._sentence(f"{error} {error.__cause__}")):
                    raise
                wake_workers()
                if "timed out" in str(error) or not lost_worker.is_asked_for:
                    raise WorkerError(sentence) from error
                lost_worker.sentence = lost_worker.sentence or sentence
                batches = (_converted(self.dataset[place]) for place in islice(places, number, None))
                has_workers = False
                continue
            self.seconds_waited += clock() - start
            number += 1
            yield batch

    def _sentence(self, message: str) -> str:
        """What has happened to a worker and what to do, or nothing if it is about something else."""
        # Connections to a worker are lost a moment before it has ended.
        ended = wait([process.sentinel for process in self._processes], 1.0)
        for process in self._processes:
            if process.sentinel in ended:
                process.join(1.0)
            if process.exitcode and process.exitcode != -signal.SIGBUS:
                is_killed = process.exitcode == -signal.SIGKILL
                remedy = self.remedy if is_killed else "see what it says with --data.num_workers 0"
                return f"A process that loads batches (pid {process.pid}) {way_of_death(process.exitcode)}: {remedy}."
        return _sentence(message)


def wake_workers() -> None:
    """Let processes that load batches end, also if they were stopped, which Python would wait for at its own end."""
    for child in active_children():
        if child.daemon and child.pid:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGCONT)


class _Ends:
    """Raises that a worker has ended where a batch is waited for; torch would in the middle of a training step."""

    waits = False
    of_torch: Any = None

    def heed(self) -> None:
        """Take the place of torch's handler, once there is one."""
        handler = signal.getsignal(signal.SIGCHLD)
        if threading.current_thread() is threading.main_thread() and callable(handler) and handler != self.note:
            self.of_torch = handler
            signal.signal(signal.SIGCHLD, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Heed that a child has ended."""
        try:
            self.of_torch(number, frame)
        except RuntimeError:
            if self.waits:
                raise


_ends = _Ends()


@contextmanager
def _waiting() -> Iterator[None]:
    """Wait for `PATIENCE_SECONDS` at most; torch does not count the time in which a worker hands over a file."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_: object) -> None:
        raise TimeoutError("timed out")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    try:
        _ends.waits = True
        yield
    finally:
        _ends.waits = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _leave_process_group(_: int) -> None:
    os.setpgid(0, 0)


def _converted(batch: Any) -> Any:
    return default_convert(batch)  # type: ignore[no-untyped-call]


def _shared(batch: Any) -> Any:
    """A batch in the memory where it is handed over.

    torch does so in a thread, where a failure for want of space reaches nobody, and the batch is waited for.
    """
    batch = _converted(batch)
    for part in batch if isinstance(batch, list | tuple) else (batch,):
        if isinstance(part, Tensor):
            part.share_memory_()  # type: ignore[no-untyped-call]
    return batch


def _sentence(message: str) -> str:
    """What has happened to a worker and what to do, by what torch says, or nothing if it is about something else."""
    if "timed out" in message:
        return (
            f"A process that loads batches has given none for {PATIENCE_SECONDS:.0f} s: it was stopped, or its disk "
            "does not answer; see to that, or use --data.num_workers 0."
        )
    if (
        "shared memory" in message
        or "/torch_" in message
        or "No space left on device" in message
        or "Bus error" in message
    ):
        return (
            "The shared memory in /dev/shm, where batches are handed over, is full: use --data.num_workers 0 or a "
            "smaller --data.batch_size, or give the container more with --shm-size."
        )
    if worker := re.search(r"DataLoader worker \(pid\D*(\d+)", message):  # of another loader
        return f"A process that loads batches (pid {worker[1]}) {way_of_death(-signal.SIGKILL)}: {WITH_FEWER_WORKERS}."
    return ""


def way_of_death(exit_code: int) -> str:
    """How a child process has ended, as `subprocess` and `multiprocessing` give it.

    Example:
        >>> way_of_death(-11), way_of_death(3)
        ('was ended by SIGSEGV', 'ended with status 3')
    """
    if exit_code == -signal.SIGKILL:
        return "was killed, as the system does when memory runs out"
    return f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with status {exit_code}"
