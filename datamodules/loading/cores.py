"""How many processes can work at once."""

import os


def available_cores() -> int:
    """The cores that this process may use; on a shared machine these are often fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
