"""Settings of a process before it trains."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from core.stopping import EXIT_STATUS, exit_on_signals
from datamodules.loading.loader import wake_workers
from scripts.command.boundary import mistakes_in_one_sentence

PARENT = "KINDLING_PARENT"  # environment variable: the process with whose end this one ends

SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's `prctl`

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's `mallopt`


@contextmanager
def training_process() -> Iterator[None]:
    """Prepare the process, and let a signal or a user's mistake end it in order.

    A mistake ends it with one sentence and exit status 2, a signal as `core.stopping` says.
    """
    with exit_on_signals(), mistakes_in_one_sentence():
        end_with_parent()
        prepare_process()
        try:
            yield
        finally:
            wake_workers()


def end_with_parent() -> None:
    """End in order when the parent that has set PARENT ends, even if it is killed (Linux only)."""
    parent = int(os.environ.pop(PARENT, "0"))  # not inherited by children
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before
            sys.exit(EXIT_STATUS[signal.SIGTERM])


def prepare_process() -> None:
    """Look for GPUs once, and keep freed memory for the next step."""
    if torch.version.hip is None and not torch.cuda.is_available():
        # torch's optimizers look for an accelerator at every step: 0.2 ms where there is none, unless this is set.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # By default glibc returns large blocks to the system, which clears each page again: a tenth to a fifth of a
    # convolutional network's step on a CPU.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, 2**25)  # the most that it takes
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
