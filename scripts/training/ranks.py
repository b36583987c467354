"""Check the number of ranks, and let them wait for each other; loaded only for a job or several ranks."""

from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from core.user_error import UserError

if TYPE_CHECKING:
    from callbacks.run.jobs import Job


def connect_ranks(trainer: Trainer, job: "Job | None", *, sync_batchnorm: bool) -> None:
    """Let the Trainer's ranks wait for each other; raises UserError if a job has started another number of them."""
    if job and job.processes > 1 and job.processes != trainer.world_size:
        raise UserError(
            f"{job.scheduler} has started {job.processes} processes, but the Trainer is for {trainer.world_size}; "
            "give --trainer.devices as many as start on each node, or start one."
        )
    if trainer.world_size > 1:
        if sync_batchnorm and trainer.strategy.root_device.type == "cpu":
            raise UserError("trainer.sync_batchnorm is true, but batch norm is shared on GPUs only; leave it out.")
        from callbacks.run.peers import let_come_together

        let_come_together(trainer)
