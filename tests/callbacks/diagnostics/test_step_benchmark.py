from pathlib import Path

import pytest
import torch

from callbacks.diagnostics.step_benchmark import FEWEST_EPOCHS, StepBenchmark
from models.serialization.checkpoint import read_checkpoint
from scripts.training.train_cli import TrainCLI


@pytest.mark.slow
def test_measures_until_its_time_is_over_and_leaves_the_training_as_it_is(tmp_path: Path, data_root: Path) -> None:
    clock = StepBenchmark(seconds=0)
    states = []
    for epochs, callbacks in ((100, [clock]), (FEWEST_EPOCHS + 1, [])):
        flags = [f"--trainer.max_epochs={epochs}", "--early_stopping=null", "--model.scheduler=null"]
        flags += ["--data.batch_size=128", "--data.drop_last=true"]
        flags += ["--runs", str(tmp_path / str(epochs)), "--data.root", str(data_root)]
        cli = TrainCLI(["fit", *flags], callbacks=callbacks)
        states.append(read_checkpoint(cli.folder / "checkpoints" / "last.ckpt")["state_dict"])
    assert len(clock.limit_ms) == len(clock.program_ms) == len(clock.waiting) == FEWEST_EPOCHS
    assert min(clock.limit_ms + clock.program_ms) > 0
    assert all(0 <= share < 1 for share in clock.waiting)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
