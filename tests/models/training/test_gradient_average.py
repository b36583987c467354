from collections.abc import Callable

import pytest
import torch

from tests.conftest import Run
from tests.discovery import CONFIGS
from tests.models.test_classifier import parameters_of


@pytest.mark.slow
def test_accumulated_batches_step_as_one_large_batch(train: Callable[..., Run]) -> None:
    flags = [f"--config={CONFIGS}/digits/mlp.yaml", "--trainer.max_epochs=2", "--data.drop_last=true"]
    flags += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    large = train(*flags, "--data.batch_size=128")
    small = train(
        *flags, "--data.batch_size=32", "--trainer.accumulate_grad_batches=4", "--trainer.limit_train_batches=40"
    )
    assert small.checkpoint["global_step"] == large.checkpoint["global_step"] == 20
    assert torch.allclose(parameters_of(small), parameters_of(large), atol=1e-5)


@pytest.mark.slow
def test_a_step_of_fewer_accumulated_batches_counts_them_fully(train: Callable[..., Run]) -> None:
    # 10 batches of 128 and one of 14 are 40 of 32 and one of 14, which has an eleventh step to itself.
    flags = [f"--config={CONFIGS}/digits/mlp.yaml", "--trainer.max_epochs=2"]
    flags += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
    large = train(*flags, "--data.batch_size=128")
    small = train(*flags, "--data.batch_size=32", "--trainer.accumulate_grad_batches=4")
    assert small.checkpoint["global_step"] == large.checkpoint["global_step"] == 22
    assert torch.allclose(parameters_of(small), parameters_of(large), atol=1e-5)
    assert small.results["metrics"]["train/loss"] == pytest.approx(large.results["metrics"]["train/loss"], abs=1e-5)
