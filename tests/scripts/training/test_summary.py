import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.datamodules.test_image_folder import write_source


def test_says_when_training_waits_for_data_and_what_helps(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(tmp_path)
    flags = ("--data", "datamodules.image_folder.ImageFolder", "--data.root", str(tmp_path), "--data.image_size=32")
    slow = ("--data.storage=files", "--data.num_workers=0", "--model.network.channels=[4]", "--trainer.max_epochs=2")
    run = train(*flags, *slow)
    assert run.results["waiting_for_data"] > 0.05
    assert re.search(
        r"\d+% of training was waiting for data: decode with --data.num_workers \d", capsys.readouterr().out
    )
