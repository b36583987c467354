import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.discovery import ROOT

TRAIN = [sys.executable, str(ROOT / "scripts" / "train.py")]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.any_device
def test_alone_it_trains_the_digits_well_and_says_nothing_but_what_it_did(tmp_path: Path) -> None:
    done = subprocess.run([*TRAIN, "fit"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line in done.stdout.splitlines():
        assert re.match(r"ConvNet with |Digits: |epoch |[┌│└]|stopped by |checkpoint  |curves  ", line), line
    (accuracy,) = re.findall(r"test/accuracy +│ ([\d.]+)", done.stdout)
    assert float(accuracy) >= 0.97
    (checkpoint,) = re.findall(r"checkpoint  (\S+)", done.stdout)
    assert (tmp_path / checkpoint).is_file()
    assert (tmp_path / "data").is_dir()
    (curves,) = tmp_path.glob("runs/digits-convnet/*")
    tags: set[str] = set()
    for events in curves.glob("*tfevents*"):
        accumulator = EventAccumulator(str(events)).Reload()
        tags |= set(accumulator.Tags()["scalars"])
    stages = {f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "accuracy")}
    others = {"lr", "epoch", "train/gradient_norm", "train/images_per_second", "best/val/accuracy"}
    assert tags == stages | others


@pytest.mark.parametrize("args", [[], ["fot"], ["test"], ["predict"], ["validate", "--trainer.max_epochs=3"]])
def test_a_mistaken_command_is_answered_in_one_sentence(refused: Callable[..., str], args: list[str]) -> None:
    refused(*args)


def test_its_help_needs_no_library() -> None:
    code = "import runpy, sys; sys.argv = [sys.argv[1], '--help']; runpy.run_path(sys.argv[0], run_name='__main__'); "
    code += "assert not {'torch', 'lightning'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code, TRAIN[1]], capture_output=True, text=True, check=True)
    assert "--resume" in done.stdout
