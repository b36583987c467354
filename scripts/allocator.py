"""Memory that a training step frees and the next one wants again."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""What glibc's `mallopt` calls its parameters."""


def keep_freed_memory() -> None:
    """Keep freed memory for the next step, where the C library is glibc; elsewhere do nothing.

    By default glibc gives large blocks back to the system, which clears each page when it is wanted again: on a CPU a
    tenth to a fifth of a convolutional network's step.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, 2**25)  # the most that it takes
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
