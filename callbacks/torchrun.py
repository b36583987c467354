"""What torchrun tells the processes that it starts, and starts again when one has failed."""

import os
from datetime import timedelta

from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]  # not listed in its __all__

from callbacks.peers import open_store

SHARED = "TORCHELASTIC_USE_AGENT_STORE"
"""Says `True` if the store at MASTER_ADDR and MASTER_PORT is torchrun's own, which outlives the processes."""

PORT = "KINDLING_PORT"
"""Where that store tells the port of the first process's."""


def has_started_this() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def job() -> str:
    """The job's name, if no store of torchrun knows what the job's processes have done before a failure."""
    return "" if os.environ.get(SHARED) == "True" else os.environ.get("TORCHELASTIC_RUN_ID", "")


def has_started_again() -> bool:
    """Whether a process of the job has failed before."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def store(*, is_first: bool) -> TCPStore:
    """What the processes tell each other by: torchrun's own store, or else that of the first of them.

    Their group is to form by the latter: torchrun's still holds the addresses of processes that have failed, for which
    those that it starts again would wait.

    Args:
        is_first: Whether this process is the first.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get(SHARED) != "True":
        return open_store(address, port, is_first=is_first)
    shared = TCPStore(address, port)
    while True:
        port = 0 if is_first else int(shared.get(PORT))
        try:
            own = open_store(address, port, is_first=is_first, timeout=timedelta(seconds=2))
            break
        except DistNetworkError:
            if is_first:
                raise
            # It is the port of a process that has failed.
    if is_first:
        shared.set(PORT, str(own.port))
    os.environ |= {"MASTER_PORT": str(own.port), SHARED: "False"}
    return shared
