"""Let the ranks of a run wait for each other at the start, and end a rank that has lost the others."""

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
PATIENCE_SECONDS = 300.0  # how long ranks wait for each other at the start
GRACE_SECONDS = 10.0  # how long a rank that has lost the others may take to exit by itself
LOOK_SECONDS = 1.0  # between two checks for lost ranks
FIRST = "KINDLING_FIRST_PROCESS"  # environment variable: the id of the process that launched the other ranks

LOST = "Another process of this run has ended, and this one with it; see what it said."

_waiting: list[threading.Thread] = []
_stores: list[TCPStore] = []
_has_lost = threading.Event()


class PeerError(CommandError):
    """The other ranks of the run have ended, or have not started."""


def come_together(meet: Callable[[], T]) -> T:
    """Run `meet`, which waits for the other ranks, in a thread; wait at most `PATIENCE_SECONDS` for its result.

    In this thread torch would wait in C++, where Python cannot handle a signal.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(meet())
        except BaseException as error:  # raised below
            result.set_exception(error)

    _waiting.append(threading.Thread(target=run, daemon=True))
    _waiting[-1].start()
    end = time.monotonic() + PATIENCE_SECONDS
    while not wait([result], timeout=0.1).done:
        if _has_lost.is_set():
            raise PeerError(LOST)
        if time.monotonic() > end:
            minutes = f"{PATIENCE_SECONDS / 60:.0f} minutes"
            raise PeerError(
                f"The processes of this run have not come together within {minutes}; see what the others say."
            )
    try:
        return result.result()
    except (torch.distributed.DistNetworkError, torch.distributed.DistStoreError) as error:
        raise PeerError(LOST) from error


def let_come_together(trainer: "Trainer") -> None:
    """Let the Trainer form its process group in `come_together`, and watch for lost ranks."""
    strategy, set_up = trainer.strategy, trainer.strategy.setup_environment
    launcher: Any = strategy.launcher
    starts_scripts = hasattr(launcher, "cluster_environment")

    def set_up_together() -> None:
        if starts_scripts:
            # Lightning's observer would kill this process before it prints why; give it an empty list to observe.
            observed, launcher.procs = launcher.procs, [*launcher.procs]
            observed.clear()
        come_together(set_up)
        assert strategy.accelerator is not None
        strategy.accelerator.setup_device(strategy.root_device)  # torch's current device is per thread

    strategy.setup_environment = set_up_together  # type: ignore[method-assign]  # of any strategy
    if starts_scripts and not launcher.cluster_environment.creates_processes_externally:
        os.environ[FIRST] = str(os.getpid())
        watch(lambda: any(child.poll() for child in launcher.procs))
    elif starts_scripts and FIRST in os.environ:
        first = int(os.environ[FIRST])
        watch(lambda: os.getppid() != first)


def watch(is_lost: Callable[[], bool]) -> None:
    """End this process if `is_lost` and it does not exit by itself within `GRACE_SECONDS`.

    It may be waiting for the lost rank in C++ or on a GPU, where Python cannot handle a signal.
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
    """Exit at once if a thread still waits for other ranks: Python's regular exit may abort with such a thread."""
    if any(thread.is_alive() for thread in _waiting):
        _end(end.code if isinstance(end.code, int) else 1)


def _end(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def open_store(address: str, port: int, *, is_first: bool) -> TCPStore:
    """Open the store that rank 0 serves, until `release_folders`."""
    _stores.append(TCPStore(address, port, is_master=is_first, wait_for_workers=False, multi_tenant=True))
    at_release.callback(_stores.clear)
    return _stores[-1]
