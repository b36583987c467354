"""The job of SLURM that a process belongs to, which may be stopped and queued again."""

import os
import subprocess
import sys


def job() -> str:
    """The job's number, with that of the task of an array; empty outside a job."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def queue_again() -> None:
    """Put the job back into the queue, from where it starts with the same number and command; say if that fails."""
    try:
        done = subprocess.run(["scontrol", "requeue", job()], capture_output=True, text=True, check=False)
        failure = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        failure = str(error)
    if failure:
        print(f"warning: job {job()} could not be queued again ({failure})", file=sys.stderr)
