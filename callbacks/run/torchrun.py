"""What torchrun tells the processes that it starts, and starts again when one has failed."""

import os
import socket
import time

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in its __all__

from callbacks.run.peers import open_store

# Says `True` if the store at MASTER_ADDR and MASTER_PORT is torchrun's own, which outlives the processes.
SHARED = "TORCHELASTIC_USE_AGENT_STORE"

PORT = "KINDLING_PORT"  # where that store tells the port of the first process's


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
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get(SHARED) != "True":
        return open_store(address, port, is_first=is_first)
    shared = TCPStore(address, port)
    if is_first:
        own = open_store(address, 0, is_first=True)
        shared.set(PORT, str(own.port))
    else:
        while not _answers(address, port := int(shared.get(PORT))):  # it is that of a process which has failed
            time.sleep(0.1)
        own = open_store(address, port, is_first=False)
    os.environ |= {"MASTER_PORT": str(own.port), SHARED: "False"}
    return shared


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True
