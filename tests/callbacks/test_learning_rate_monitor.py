from collections.abc import Callable

import pytest

from tests.callbacks.test_curves import points
from tests.conftest import Run


@pytest.mark.slow
def test_each_step_has_one_point_however_many_batches_it_takes(train: Callable[..., Run]) -> None:
    run = train(
        *("--trainer.max_epochs=2", "--data.batch_size=128", "--trainer.log_every_n_steps=1"),
        "--trainer.accumulate_grad_batches=3",
    )
    assert [step for step, _ in points(run.folder)["lr"]] == list(range(8))
