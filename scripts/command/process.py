"""Prepare a process for training."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from core.stopping import EXIT_STATUS, exit_on_signals
from datamodules.loading.loader import wake_workers
from scripts.command.boundary import report_errors

PARENT = "KINDLING_PARENT"  # environment variable: the id of the process whose end ends this one

SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's `prctl`

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's `mallopt`


@contextmanager
def training_process() -> Iterator[None]:
    """Prepare the process for training; inside the block, handle signals and errors.

    The exit status is that of `core.stopping` after a signal, and of `report_errors` after an error.
    """
    with exit_on_signals(), report_errors():
        end_with_parent()
        prepare_process()
        try:
            yield
        finally:
            wake_workers()


def end_with_parent() -> None:
    """Exit cleanly when the parent process that has set PARENT ends, even if it is killed (Linux only)."""
    parent = int(os.environ.pop(PARENT, "0"))  # removed, so that children do not inherit it
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # the parent has ended already
            sys.exit(EXIT_STATUS[signal.SIGTERM])


def prepare_process() -> None:
    """Hide a missing GPU from torch, and let glibc keep freed memory for the next step."""
    if torch.version.hip is None and not torch.cuda.is_available():
        # Without this, torch's optimizers look for a GPU at every step, which takes 0.2 ms.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # By default glibc returns large blocks to the system, which clears each page again. That takes 10 to 20 % of a
    # convolutional network's step on a CPU.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, 2**25)  # the largest value that glibc accepts
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
