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

from core.user_error import CommandError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

T = TypeVar("T")
PATIENCE_SECONDS = 300.0  # how long the processes of a run may take to come together
GRACE_SECONDS = 10.0  # how long a process may take to end in order after it has lost the others
LOOK_SECONDS = 1.0  # between two looks for lost processes
SILENT_LOOKS = 30  # looks without a sign of life after which a process is lost; not seconds: all may have been stopped
FIRST = "KINDLING_FIRST_PROCESS"  # tells the others the number of the process that has started them

LOST = "Another process of this run has ended, and this one with it; see what it said."

_waiting: list[threading.Thread] = []


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
        if any(watch.has_lost for watch in _watches):
            raise PeerError(LOST)
        if time.monotonic() > end:
            raise PeerError(
                f"The processes of this run have not come together within {PATIENCE_SECONDS / 60:.0f} minutes; see "
                "what the others say, and whether they can reach each other."
            )
    try:
        return met.result()
    except (torch.distributed.DistNetworkError, torch.distributed.DistStoreError) as error:
        raise PeerError(LOST) from error


def script_launcher(trainer: "Trainer") -> Any:
    """The launcher that starts the Trainer's other processes as scripts, or None if it starts them otherwise."""
    launcher = trainer.strategy.launcher
    return launcher if hasattr(launcher, "cluster_environment") else None


def let_come_together(trainer: "Trainer") -> None:
    """Let the Trainer's processes form their group by `come_together`, and watch for lost ones."""
    if trainer.world_size == 1:
        return
    strategy, launcher = trainer.strategy, script_launcher(trainer)
    set_up = strategy.setup_environment

    def set_up_together() -> None:
        if launcher:
            # Lightning's observer kills this process before it has said why; it watches the list that it was given.
            observed, launcher.procs = launcher.procs, [*launcher.procs]
            observed.clear()
        come_together(set_up)
        assert strategy.accelerator is not None
        strategy.accelerator.setup_device(strategy.root_device)  # torch has one for each thread

    strategy.setup_environment = set_up_together  # type: ignore[method-assign]  # whatever the strategy
    if launcher and not launcher.cluster_environment.creates_processes_externally:
        os.environ[FIRST] = str(os.getpid())
        watch(lambda: any(child.poll() for child in launcher.procs))
    elif launcher and FIRST in os.environ:
        first = int(os.environ[FIRST])
        watch(lambda: os.getppid() != first)


def signs_of_life(store: TCPStore, rank: int, processes: int) -> Callable[[], bool]:
    """A function that gives a sign of life, and is True if another process gives none; until the group is up."""
    seen = dict.fromkeys(range(1, processes if rank == 0 else 0), (0, 0))

    def is_lost() -> bool:
        if torch.distributed.is_initialized():  # from here on the group notices
            return False
        try:
            store.add(f"signs/{rank}", 1)
            for other, (signs, looks) in seen.items():
                now = store.add(f"signs/{other}", 0)
                seen[other] = now, (looks + 1 if now == signs and now else 0)
        except RuntimeError:
            return True
        return any(looks > SILENT_LOOKS for _, looks in seen.values())

    return is_lost


class _Watch(threading.Thread):
    def __init__(self, is_lost: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self.has_lost = self.is_over = False
        self._is_lost = is_lost

    def run(self) -> None:
        while not self._is_lost():
            time.sleep(LOOK_SECONDS)
        self.has_lost = True
        time.sleep(GRACE_SECONDS)
        if not self.is_over:
            print(f"error: {LOST}", file=sys.stderr)
            _end(1)


_watches: list[_Watch] = []


def watch(is_lost: Callable[[], bool]) -> None:
    """End this process if it has lost another that it needs, and does not end by itself in `GRACE_SECONDS`.

    It may wait for the lost process in C++ or on a GPU, where no signal is heeded.
    """
    _watches.append(_Watch(is_lost))
    _watches[-1].start()


def leave(end: SystemExit) -> None:
    """End the process at once if a thread still waits for others: Python's own end may abort with it."""
    if any(thread.is_alive() for thread in _waiting):
        _end(end.code if isinstance(end.code, int) else 1)


def _end(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


_stores: list[TCPStore] = []


def open_store(address: str, port: int, *, is_first: bool) -> TCPStore:
    """The store of the first process of a run, open until `part`."""
    _stores.append(TCPStore(address, port, is_master=is_first, wait_for_workers=False, multi_tenant=True))
    return _stores[-1]


def part() -> None:
    """Watch for no other process any more, and close the stores."""
    while _watches:
        _watches.pop().is_over = True
    _stores.clear()
