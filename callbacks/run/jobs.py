"""Find the torchrun or SLURM job of this process, and share the run's folder between its ranks."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in its __all__

from callbacks.run.peers import come_together, open_store
from core.user_error import UserError

INTERACTIVE = "bash", "interactive"  # names of SLURM jobs that are shells, without srun; as in Lightning

# Distance from the port of the process group, which Lightning derives from SLURM's job number, to the store's port.
PORTS_APART = 10_000

# Environment variable, `True` if torchrun's own store is at MASTER_ADDR and MASTER_PORT; it outlives the ranks.
SHARED = "TORCHELASTIC_USE_AGENT_STORE"
FOLDER, PORT = "kindling/run folder", "kindling/port"  # keys of the store


@dataclass(frozen=True)
class Job:
    """A job of a scheduler."""

    scheduler: str  # `torchrun` or `SLURM`
    name: str  # part of the run folder's name; empty if torchrun's store holds the folder
    is_restarted: bool  # True if the job ran before, and was stopped or failed
    processes: int  # number of ranks that the job launched together

    def agree(self, choose: Callable[[], Path]) -> Path:
        """Choose the run's folder on rank 0, and return it on all ranks."""
        rank = rank_zero_only.rank  # type: ignore[attr-defined]  # an attribute of a function
        store_of = torchrun_store if self.scheduler == "torchrun" else slurm_store
        store = come_together(lambda: store_of(is_first=rank == 0))
        if rank == 0 and not store.check([FOLDER]):
            folder = choose()
            store.set(FOLDER, str(folder))
            return folder
        return Path(come_together(lambda: store.get(FOLDER)).decode())

    def queue_again(self) -> None:
        """Requeue a SLURM job, which keeps its number and command; print a warning if that fails."""
        if number := slurm_number():
            try:
                subprocess.run(["scontrol", "requeue", number], check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"warning: job {number} could not be queued again ({error})", file=sys.stderr)


def find_job() -> Job:
    """Read the job from the environment variables of this process."""
    number = slurm_number()
    was_queued_again = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    if "TORCHELASTIC_RUN_ID" in os.environ:
        name = number or ("" if os.environ.get(SHARED) == "True" else os.environ["TORCHELASTIC_RUN_ID"])
        has_failed = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        return Job("torchrun", name, was_queued_again or has_failed, int(os.environ["WORLD_SIZE"]))
    is_shell = os.environ.get("SLURM_JOB_NAME") in INTERACTIVE
    tasks = 1 if is_shell else int(os.environ.get("SLURM_NTASKS", "1"))
    if tasks > 1 and not {"SLURM_PROCID", "SLURM_NTASKS_PER_NODE"} <= os.environ.keys():
        raise UserError(
            f"The job of SLURM has {tasks} tasks, but does not say how many of them are on each node: ask for as "
            "many as --trainer.devices with --ntasks-per-node and start them with srun, or ask for one with --ntasks=1."
        )
    return Job("SLURM", number, was_queued_again, tasks)


def slurm_number() -> str:
    """Return the number of the SLURM job, with its array task; an empty string outside a job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def slurm_store(*, is_first: bool) -> TCPStore:
    """Open the store of the ranks that srun launched; rank 0 serves it."""
    environment = SLURMEnvironment()
    address, port = environment.main_address, environment.main_port + PORTS_APART
    try:
        return open_store(address, port, is_first=is_first)
    except RuntimeError as error:
        raise UserError(
            f"The job's processes do not find each other at {address}:{port}; see what the first of them said."
        ) from error


def torchrun_store(*, is_first: bool) -> TCPStore:
    """Open torchrun's own store if it has one, else a store that rank 0 serves.

    The process group always uses a store of rank 0: torchrun's store still holds the addresses of failed ranks, and
    restarted ranks would wait for them.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if os.environ.get(SHARED) != "True":
        return open_store(address, port, is_first=is_first)
    shared = TCPStore(address, port)
    if is_first:
        group_store = open_store(address, 0, is_first=True)
        shared.set(PORT, str(group_store.port))
    else:
        while not _answers(address, port := int(shared.get(PORT))):  # until rank 0 has replaced a failed rank's port
            time.sleep(0.1)
        group_store = open_store(address, port, is_first=False)
    os.environ |= {"MASTER_PORT": str(group_store.port), SHARED: "False"}
    return shared


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True
