"""The processes of a run: they wait for each other, and each ends when it has lost the others."""

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in its __all__

from callbacks.run.run_folder import at_release
from core.user_error import CommandError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

T = TypeVar("T")
PATIENCE_SECONDS = 300.0  # how long the processes of a run may take to come together
GRACE_SECONDS = 10.0  # how long a process may take to end in order after it has lost the others
LOOK_SECONDS = 1.0  # between two looks for lost processes
FIRST = "KINDLING_FIRST_PROCESS"  # tells the others the number of the process that has started them

LOST = "Another process of this run has ended, and this one with it; see what it said."

_waiting: list[threading.Thread] = []
_stores: list[TCPStore] = []
_has_lost = threading.Event()


class PeerError(CommandError):
    """The other processes of the run have ended, or have not started."""


def come_together(meet: Callable[[], T]) -> T:
    """Wait in a thread for the other processes of the run, for `PATIENCE_SECONDS` at most.

    torch waits in C++, where Python can act on no signal.
    """
    met: Future[T] = Future()

    def run() -> None:
        try:
            met.set_result(meet())
        except BaseException as error:  # raised below
            met.set_exception(error)

    _waiting.append(threading.Thread(target=run, daemon=True))
    _waiting[-1].start()
    end = time.monotonic() + PATIENCE_SECONDS
    while not wait([met], timeout=0.1).done:
        if _has_lost.is_set():
            raise PeerError(LOST)
        if time.monotonic() > end:
            minutes = f"{PATIENCE_SECONDS / 60:.0f} minutes"
            raise PeerError(
                f"The processes of this run have not come together within {minutes}; see what the others say."
            )
    try:
        return met.result()
    except (torch.distributed.DistNetworkError, torch.distributed.DistStoreError) as error:
        raise PeerError(LOST) from error


def let_come_together(trainer: "Trainer") -> None:
    """Let the Trainer's processes form their group by `come_together`, and watch for lost ones."""
    strategy, set_up = trainer.strategy, trainer.strategy.setup_environment
    launcher: Any = strategy.launcher
    starts_scripts = hasattr(launcher, "cluster_environment")

    def set_up_together() -> None:
        if starts_scripts:
            # Lightning's observer kills this process before it has said why; it watches the list that it was given.
            observed, launcher.procs = launcher.procs, [*launcher.procs]
            observed.clear()
        come_together(set_up)
        assert strategy.accelerator is not None
        strategy.accelerator.setup_device(strategy.root_device)  # torch has one for each thread

    strategy.setup_environment = set_up_together  # type: ignore[method-assign]  # whatever the strategy
    if starts_scripts and not launcher.cluster_environment.creates_processes_externally:
        os.environ[FIRST] = str(os.getpid())
        watch(lambda: any(child.poll() for child in launcher.procs))
    elif starts_scripts and FIRST in os.environ:
        first = int(os.environ[FIRST])
        watch(lambda: os.getppid() != first)


def watch(is_lost: Callable[[], bool]) -> None:
    """End this process if it has lost another that it needs, and does not end by itself in `GRACE_SECONDS`.

    It may wait for the lost process in C++ or on a GPU, where no signal is heeded.
    """
    is_over = threading.Event()

    def look() -> None:
        while not is_lost():
            if is_over.wait(LOOK_SECONDS):
                return
        _has_lost.set()
        if not is_over.wait(GRACE_SECONDS):
            print(f"error: {LOST}", file=sys.stderr)
            _end(1)

    at_release.callback(_has_lost.clear)
    at_release.callback(is_over.set)
    threading.Thread(target=look, daemon=True).start()


def leave(end: SystemExit) -> None:
    """End the process at once if a thread still waits for others: Python's own end may abort with it."""
    if any(thread.is_alive() for thread in _waiting):
        _end(end.code if isinstance(end.code, int) else 1)


def _end(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def open_store(address: str, port: int, *, is_first: bool) -> TCPStore:
    """The store of the first process of a run, open until the run is left."""
    _stores.append(TCPStore(address, port, is_master=is_first, wait_for_workers=False, multi_tenant=True))
    at_release.callback(_stores.clear)
    return _stores[-1]
