"""PyTorch's DataLoader with a timer, and the errors of its worker processes."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import active_children
from typing import Any

from torch.utils.data import DataLoader

from core.user_error import CommandError


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, which can be less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerError(CommandError):
    """A data loading worker has died or does not respond. With `in_order`, all ranks raise it between two steps."""

    def __init__(self, message: str, *, in_order: bool = False) -> None:
        self.in_order = in_order
        super().__init__(message)


class LostWorker:
    """Records that a worker died, so that a training run can end between two steps."""

    is_deferred = False  # True while a Trainer runs: it checks `message` between steps
    message = ""  # why the worker died; empty if none has


lost_worker = LostWorker()


class TimedLoader(DataLoader[Any]):
    """A DataLoader that measures how long its user waits for batches, in `seconds_waited`.

    With `num_workers` above 0, a worker that dies or does not respond raises WorkerError; see `Workers`.
    """

    seconds_waited = 0.0

    def __init__(self, dataset: Any, *, num_workers: int = 0, **options: Any) -> None:
        self._workers = None
        if num_workers:
            from datamodules.loading import workers

            self._workers = workers.Workers()
            options |= {"worker_init_fn": workers.leave_process_group, "collate_fn": workers.to_shared_memory}
        super().__init__(dataset, num_workers=num_workers, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch declares a private class
        start_workers = super().__iter__
        batches = self._workers.batches(start_workers, self.dataset, self.sampler) if self._workers else start_workers()
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.seconds_waited += time.perf_counter() - start
            yield batch


def wake_workers() -> None:
    """Continue workers that were stopped by a signal: otherwise Python waits for them forever when it exits."""
    for child in active_children():
        if child.daemon and child.pid:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGCONT)
