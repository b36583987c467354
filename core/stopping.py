"""Signals that end a process in order."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from core import leave_at_once

# The exit status of the process after each signal that it heeds.
EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


def heeded() -> list[signal.Signals]:
    """The signals that end this process in order: not SIGHUP where it is ignored, as `nohup` asks for."""
    return [number for number in EXIT_STATUS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class Stopped(SystemExit):
    """A signal ends the process; in order, if training stood between two batches, so that its state can be saved."""

    def __init__(self, signal_number: int, *, in_order: bool) -> None:
        self.signal = signal.Signals(signal_number)
        self.in_order = in_order
        super().__init__(EXIT_STATUS[self.signal])


class ReceivedSignals:
    """The signals that this process has received."""

    signal = 0
    """The last signal, or 0."""
    interrupts = 0
    is_deferred = False
    """True while a Trainer loop runs: it will exit after the current batch."""
    ends_process = True
    """Whether a second SIGINT ends the process at once, or else the loop."""

    def reset(self) -> None:
        """Forget them."""
        self.signal, self.interrupts, self.is_deferred = 0, 0, False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, and exit at once unless a loop will."""
        if number == signal.SIGINT:
            self.interrupts += 1
            if self.interrupts > 1 and self.ends_process:
                leave_at_once()
            if self.is_deferred and sys.stderr.isatty():  # written at once: print may be what was interrupted
                os.write(sys.stderr.fileno(), b"\nleaving after this batch; Ctrl-C again leaves at once\n")
        self.signal = number
        if not self.is_deferred or self.interrupts > 1:
            raise Stopped(number, in_order=False)


received = ReceivedSignals()


@contextmanager
def heeding_signals() -> Iterator[None]:
    """End the process on the signals of `EXIT_STATUS`, with its cleaning up and the signal's exit status.

    While the loop of a Trainer with an `Interruption` runs, the process ends between two batches. A signal that comes
    just after a loop is heeded in the next loop.
    """
    if threading.current_thread() is not threading.main_thread():  # no other thread may set signal handlers
        yield
        return
    received.reset()
    before = {number: signal.signal(number, received.note) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
