"""Exit cleanly on signals."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from core import leave_at_once

# The exit status of the process after each signal that it handles.
EXIT_STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130, signal.SIGHUP: 129}


def exit_signals() -> list[signal.Signals]:
    """Return the signals on which this process exits cleanly: not SIGHUP if `nohup` has set it to be ignored."""
    return [number for number in EXIT_STATUS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class Stopped(SystemExit):
    """Raised on a signal. `in_order` is True between two training batches, where a checkpoint can be saved."""

    def __init__(self, signal_number: int, *, in_order: bool) -> None:
        self.signal = signal.Signals(signal_number)
        self.in_order = in_order
        super().__init__(EXIT_STATUS[self.signal])


class ReceivedSignals:
    """Handles the signals that this process receives."""

    signal = 0
    """The last signal, or 0."""
    interrupts = 0
    """The number of SIGINTs."""
    is_deferred = False
    """True while a Trainer loop runs, which exits by itself after the current batch."""
    ends_process = True
    """True if a second SIGINT ends the process at once; False if it ends only the Trainer loop."""

    def reset(self) -> None:
        """Forget all signals."""
        self.signal, self.interrupts, self.is_deferred = 0, 0, False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Record a signal, and raise Stopped unless a Trainer loop will exit."""
        if number == signal.SIGINT:
            self.interrupts += 1
            if self.interrupts > 1 and self.ends_process:
                leave_at_once()
            if self.is_deferred and sys.stderr.isatty():  # os.write, because the signal may have interrupted a print
                os.write(sys.stderr.fileno(), b"\nstopping after this batch; press Ctrl-C again to stop at once\n")
        self.signal = number
        if not self.is_deferred or self.interrupts > 1:
            raise Stopped(number, in_order=False)


received = ReceivedSignals()


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Inside the block, raise Stopped on the signals of `EXIT_STATUS`; restore the handlers after it.

    While the loop of a Trainer with an `Interruption` runs, Stopped is raised between two batches instead. A signal
    just after a loop is handled in the next loop.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers only there
        yield
        return
    received.reset()
    handlers = {number: signal.signal(number, received.note) for number in exit_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
