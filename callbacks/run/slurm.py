"""The job of SLURM that a process belongs to, which may be stopped and queued again."""

import os
import subprocess
import sys

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in its __all__

from callbacks.run import torchrun
from callbacks.run.peers import open_store
from core.user_error import UserError

# Names of jobs that are shells, in which commands are not started by srun, as Lightning has it.
INTERACTIVE = "bash", "interactive"

# Between the port that processes train by, which Lightning takes from the job's number, and that of `store`.
PORTS_APART = 10_000


def job() -> str:
    """The job's number, with that of the task of an array; empty outside a job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def tasks() -> int:
    """How many processes srun has started together with this one; 1 outside a job and in its shell."""
    if os.environ.get("SLURM_JOB_NAME") in INTERACTIVE or torchrun.has_started_this():
        return 1
    return int(os.environ.get("SLURM_NTASKS", "1"))


def refuse_unknown_tasks() -> None:
    """See that the job says which of its processes this is, and how many are on each node."""
    if tasks() > 1 and not {"SLURM_PROCID", "SLURM_NTASKS_PER_NODE"} <= os.environ.keys():
        raise UserError(
            f"The job of SLURM has {tasks()} tasks, but does not say how many of them are on each node: ask for as "
            "many as --trainer.devices with --ntasks-per-node and start them with srun, or ask for one with --ntasks=1."
        )


def was_queued_again() -> bool:
    """Whether the job has run before, and was stopped."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def store(*, is_first: bool) -> TCPStore:
    """What processes that srun has started together tell each other by, whatever ran in the job before them."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    environment = SLURMEnvironment()
    address, port = environment.main_address, environment.main_port + PORTS_APART
    try:
        return open_store(address, port, is_first=is_first)
    except RuntimeError as error:
        raise UserError(
            f"The job's processes do not find each other at {address}:{port}; see what the first of them said."
        ) from error


def queue_again() -> None:
    """Put the job back into the queue, from where it starts with the same number and command; say if that fails."""
    try:
        done = subprocess.run(["scontrol", "requeue", job()], capture_output=True, text=True, check=False)
        failure = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        failure = str(error)
    if failure:
        print(f"warning: job {job()} could not be queued again ({failure})", file=sys.stderr)
