import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy

from callbacks.run.logged_steps import has_all_weights
from tests.callbacks.test_curves import points
from tests.conftest import Run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        # 11 batches an epoch
        ((), [0, 10, 21]),
        (("--trainer.log_every_n_steps=4",), [0, 3, 7, 10, 11, 15, 19, 21]),
        (("--trainer.log_every_n_steps=11",), [0, 10, 21]),
        # 4 steps an epoch, the last of two batches
        (("--trainer.accumulate_grad_batches=3",), [0, 3, 7]),
        (("--trainer.log_every_n_steps=0",), []),
    ],
)
def test_the_first_the_nth_and_each_epochs_last_have_a_point(
    train: Callable[..., Run], flags: tuple[str, ...], steps: list[int]
) -> None:
    run = train("--trainer.max_epochs=2", "--data.batch_size=128", *flags)
    found = points(run.folder)
    for curve in ("lr", "train/gradient_norm"):
        assert [step for step, _ in found.get(curve, [])] == steps, curve
        assert [step for step, _ in rows(run.folder, curve)] == steps, curve


def rows(folder: Path, name: str) -> list[tuple[int, float]]:
    with (folder / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]


def test_a_process_has_all_weights_unless_they_are_spread() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    assert has_all_weights(trainer)
    trainer._accelerator_connector.strategy = FSDPStrategy()
    assert not has_all_weights(trainer)
