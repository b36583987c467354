"""Each command reads the bytes of a checkpoint, and verifies its checksums, once."""

import zipfile
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import models.serialization.checksums
from tests.conftest import Done, Run

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=4")

COMMANDS = {
    "predict": ["{one}", "{image}", "--output", "{out}.csv"],
    "evaluate": ["{one}", "--output", "{out}"],
    "average": ["{one}", "{other}", "--output", "{out}.ckpt"],
    "export": ["{one}", "--format", "safetensors", "--output", "{out}.safetensors"],
    "visualize": ["{one}", "gradcam", "--image", "train[3]", "--output", "{out}.png"],
    "compare": ["{one_run}", "{other_run}"],
}
"""The arguments of each, with places for two runs, an image and an output."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if find_spec(f"scripts.{name}")])
def test_reads_each_checkpoint_once(
    name: str,
    train: Callable[..., Run],
    script: Callable[..., Callable[..., Done]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = [
        train(*SHORT, f"--seed_everything={seed}", *more) for seed, more in ((0, ()), (1, ("--data.split_seed=0",)))
    ]
    Image.fromarray((load_digits().images[0] * 15).astype(np.uint8)).save(tmp_path / "image.png")
    places = {"one": runs[0].best, "other": runs[1].best, "one_run": runs[0].folder, "other_run": runs[1].folder}
    places |= {"image": tmp_path / "image.png", "out": tmp_path / "out"}
    loads, passes = Counter[str](), Counter[str]()
    load, testzip = torch.load, zipfile.ZipFile.testzip

    def counted_load(file: Any, *args: Any, **options: Any) -> Any:
        loads[str(file)] += 1
        return load(file, *args, **options)

    def counted_pass(archive: zipfile.ZipFile) -> str | None:
        passes[str(archive.filename)] += 1
        return testzip(archive)

    monkeypatch.setattr(models.serialization.checksums, "TICK", 2**62)  # nothing is remembered
    monkeypatch.setattr(torch, "load", counted_load)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", counted_pass)
    arguments = [argument.format(**places) for argument in COMMANDS[name]]
    status, _, error = script(import_module(f"scripts.{name}").main)(*arguments)
    assert (status, error) == (0, "")
    read = runs if any("other" in argument for argument in COMMANDS[name]) else runs[:1]
    expected = {str(run.best): 1 for run in read}
    assert {file: count for file, count in loads.items() if file.endswith(".ckpt")} == expected
    assert {file: count for file, count in passes.items() if file.endswith(".ckpt")} == expected
