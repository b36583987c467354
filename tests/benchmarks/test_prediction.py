from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.benchmarks.prediction import time_prediction
from tests.conftest import Run


@pytest.mark.slow
def test_times_a_prediction_against_the_network_alone(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("--trainer.max_epochs=1", "--data.batch_size=8")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, scan in enumerate(load_digits().images[:20]):
        Image.fromarray((scan * 15).astype(np.uint8)).save(photos / f"{number}.png")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    time_prediction(run.folder, photos, seconds=0.0)
    table = capsys.readouterr().out
    for expected in ("network alone", "program", "ratio", "ConvNet, 1x8x8", " 20 ", " 8 "):
        assert expected in table
    assert sorted(tmp_path.rglob("*")) == before
