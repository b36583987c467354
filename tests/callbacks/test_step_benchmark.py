import json
from collections.abc import Callable
from pathlib import Path

import torch

from tests.conftest import Run


def test_measures_each_epoch_and_leaves_the_training_as_it_is(train: Callable[..., Run], tmp_path: Path) -> None:
    flags = ("--trainer.max_epochs=3", "--data.batch_size=128", "--data.drop_last=true", "--early_stopping=null")
    file = tmp_path / "steps.json"
    benchmark = f"{{class_path: callbacks.step_benchmark.StepBenchmark, init_args: {{file: {file}}}}}"
    plain, timed = train(*flags), train(*flags, f"--trainer.callbacks+={benchmark}")

    figures = json.loads(file.read_text())
    assert len(figures["limit_ms"]) == len(figures["program_ms"]) == 2
    assert min(figures["limit_ms"] + figures["program_ms"]) > 0
    assert figures["batch_size"] == 128
    assert all(
        torch.equal(value, timed.checkpoint["state_dict"][name])
        for name, value in plain.checkpoint["state_dict"].items()
    )
