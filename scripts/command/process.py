"""What a process is set to before it trains: quiet, and with what each step gains from."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from core.stopping import EXIT_STATUS, heeding_signals
from datamodules.loading.loader import wake_workers
from scripts.command.boundary import mistakes_in_one_sentence
from scripts.command.silence import silence_libraries

PARENT = "KINDLING_PARENT"  # tells a process the number of the one that has started it and that it is to end with

SET_DEATH_SIGNAL = 1  # what Linux's `prctl` calls asking for a signal at the parent's end

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # what glibc's `mallopt` calls its parameters


@contextmanager
def training_process() -> Iterator[None]:
    """Prepare the process, silence libraries, and let a signal or a user's mistake end it in order.

    A mistake ends it with one sentence and exit status 2, a signal as `core.stopping` says.
    """
    with heeding_signals(), mistakes_in_one_sentence():
        silence_libraries()
        end_with_parent()
        prepare_process()
        try:
            yield
        finally:
            wake_workers()


def end_with_parent() -> None:
    """Leave in order if the process that has asked for it ends, even if it is killed; on Linux alone."""
    parent = int(os.environ.pop(PARENT, "0"))  # of this process alone, and not of those that it starts
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # too late to be told
            sys.exit(EXIT_STATUS[signal.SIGTERM])


def prepare_process() -> None:
    """Keep freed memory for the next step, and look for GPUs once."""
    keep_freed_memory()
    if torch.version.hip is None and not torch.cuda.is_available():
        # torch's optimizers ask for an accelerator at every step, and where there is none each answer takes 0.2 ms,
        # unless it is known beforehand.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def keep_freed_memory() -> None:
    """Keep freed memory for the next step, where the C library is glibc; elsewhere do nothing.

    By default glibc gives large blocks back to the system, which clears each page when it is wanted again: on a CPU a
    tenth to a fifth of a convolutional network's step.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, 2**25)  # the most that it takes
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
