from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.run.jobs import Job
from core.user_error import UserError
from scripts.training.ranks import connect_ranks


def trainer(world_size: int) -> Any:
    return SimpleNamespace(world_size=world_size, strategy=SimpleNamespace(root_device=torch.device("cpu")))


def job(processes: int) -> Job:
    return Job("torchrun", "", is_restarted=False, processes=processes)


def test_a_job_starts_as_many_ranks_as_the_trainer_has() -> None:
    with pytest.raises(UserError, match=r"torchrun has started 4 processes, but the Trainer is for 2; give --trainer"):
        connect_ranks(trainer(2), job(4), sync_batchnorm=False)
    connect_ranks(trainer(1), job(1), sync_batchnorm=False)


def test_batch_norm_is_shared_on_gpus_only() -> None:
    with pytest.raises(UserError, match=r"batch norm is shared on GPUs only; leave it out\."):
        connect_ranks(trainer(2), None, sync_batchnorm=True)
