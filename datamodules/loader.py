"""The stock DataLoader, with a clock, and a sentence for each way in which its workers fail."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import active_children
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, default_convert

PATIENCE_SECONDS = 300.0
"""How long a batch may take before its worker counts as stopped."""


class WorkerError(RuntimeError):
    """A process that loads batches has died or stands still."""


class TimedLoader(DataLoader[Any]):
    """A DataLoader that knows how long its user has waited for batches.

    What a worker process refuses is raised as it was said there, without the worker's traceback. Signals to the whole
    terminal or job do not reach the workers: it is for the process that trains to leave in order.

    Args:
        dataset: What batches are taken from.
        num_workers: Processes that do so.
        options: What `torch.utils.data.DataLoader` takes besides.

    Raises:
        MisconfigurationException: While iterating, what a worker has refused.
        WorkerError: While iterating, if a worker has died, or gives nothing for `PATIENCE_SECONDS`.
    """

    seconds_waited = 0.0

    def __init__(self, dataset: Any, *, num_workers: int = 0, **options: Any) -> None:
        super().__init__(
            dataset,
            num_workers=num_workers,
            timeout=PATIENCE_SECONDS if num_workers else 0,
            worker_init_fn=_leave_process_group,
            collate_fn=_shared if num_workers else None,
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # what torch's own private class is used for
        batches = super().__iter__()
        clock = time.perf_counter
        while True:
            start = clock()
            try:
                with _patience() if self.num_workers else nullcontext():
                    batch = next(batches)
            except StopIteration:
                return
            except MisconfigurationException as error:
                sentence = str(error).rstrip().rsplit(f"{type(error).__name__}: ")[-1]
                raise MisconfigurationException(sentence) from None
            except (RuntimeError, OSError) as error:
                if self.num_workers and (sentence := _sentence(f"{error} {error.__cause__}")):
                    wake_workers()
                    raise WorkerError(sentence) from error
                raise
            self.seconds_waited += clock() - start
            yield batch


def wake_workers() -> None:
    """Let processes that load batches end, also if they were stopped, which Python would wait for at its own end."""
    for child in active_children():
        if child.daemon and child.pid:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGCONT)


@contextmanager
def _patience() -> Iterator[None]:
    """Wait for `PATIENCE_SECONDS` at most; torch does not count the time in which a worker hands over a file."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_: object) -> None:
        raise TimeoutError("timed out")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _leave_process_group(_: int) -> None:
    os.setpgid(0, 0)


def _shared(batch: Any) -> Any:
    """A batch in the memory where it is handed over.

    torch does so in a thread, where a failure for want of space reaches nobody, and the batch is waited for.
    """
    batch = default_convert(batch)  # type: ignore[no-untyped-call]
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
    if "DataLoader worker (pid" in message:
        return (
            "A process that loads batches was killed, as the system does when memory runs out: use fewer with "
            "--data.num_workers, or a smaller --data.batch_size."
        )
    return ""
