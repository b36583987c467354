from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, scan in enumerate(load_digits().images[:6]):
        file = tmp_path / "train" / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((scan * 15).astype(np.uint8)).save(file)
    return tmp_path
