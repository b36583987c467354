import inspect
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import datamodules.digits
from datamodules.digits import Digits


def test_holds_the_real_scans_in_their_proportions(digits: Digits) -> None:
    assert digits.pack is not None
    real = load_digits()
    assert torch.equal(digits.pack.labels, torch.from_numpy(real.target))
    assert digits.pack.images is not None
    assert (digits.pack.images[:, 0] / 255 - torch.from_numpy(real.images) / 16).abs().max() < 0.5 / 255 + 1e-6
    assert {name: len(indices) for name, indices in digits.splits.items()} == {"train": 1294, "val": 144, "test": 359}


def test_shows_how_short_a_data_set_is() -> None:
    assert len(Path(inspect.getfile(datamodules.digits)).read_text().splitlines()) <= 40
