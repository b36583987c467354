import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.user_error import UserError
from datamodules.packing.features import Features, open_features, write_features
from tests.discovery import ROOT

SPLITS = {"train": torch.tensor([5, 1, 3]), "val": torch.tensor([0, 4])}
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


def empty(**splits: torch.Tensor) -> dict[str, Features]:
    return {split: Features(indices, LABELS, lambda: 0) for split, indices in (SPLITS | splits).items()}


def written(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    train = torch.arange(12).view(3, 2, 2).to(dtype)
    val = torch.arange(4).view(2, 1, 2).to(dtype)
    write_features(folder, "weights", "images", {"train": (3, [train[:2], train[2:]]), "val": (2, [val])})
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gives_the_variant_of_the_epoch_by_the_numbers_in_the_pack(tmp_path: Path, dtype: torch.dtype) -> None:
    epoch = 0
    features = Features(SPLITS["train"], LABELS, lambda: epoch)
    assert len(features) == 3
    open_features(written(tmp_path / "features", dtype), "weights", empty() | {"train": features})
    for rows in ([[8, 9], [0, 1]], [[10, 11], [2, 3]], [[8, 9], [0, 1]]):
        given, labels = features[torch.tensor([3, 5])]
        assert given.dtype == dtype
        assert given.tolist() == rows
        assert labels.tolist() == [3, 5]
        epoch += 1
    assert features.first(2).tolist() == [[0, 1], [4, 5]]


def test_refuses_features_of_something_else_and_of_other_splits(tmp_path: Path) -> None:
    folder = written(tmp_path / "features")
    with pytest.raises(ValueError, match="other weights"):
        open_features(folder, "other", empty())
    with pytest.raises(ValueError, match="those of val are not"):
        open_features(folder, "weights", empty(val=torch.tensor([0, 2, 4])))
    with pytest.raises(ValueError, match="no features that can be used"):
        open_features(tmp_path / "nowhere", "weights", empty())
    file = folder / "train.npy"
    file.write_bytes(file.read_bytes().replace(b"False", b"Fals("))  # for which NumPy has an error of its own
    with pytest.raises(ValueError, match="no features that can be used"):
        open_features(folder, "weights", empty())


def test_features_of_an_earlier_version_are_not_misread(tmp_path: Path) -> None:
    facts = written(tmp_path / "features") / "facts.json"
    facts.write_text(facts.read_text().replace('"version": 4', '"version": 3'))
    with pytest.raises(ValueError, match="it was written by version 3"):
        open_features(facts.parent, "weights", empty())


def test_leaves_nothing_behind_when_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="bytes are needed"):
        write_features(tmp_path / "features", "weights", "images", {"train": (2**60, [torch.ones(1, 1, 2)])})
    assert not list(tmp_path.iterdir())


def test_leaves_nothing_behind_when_the_disk_fills_up_meanwhile(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    chunks = [torch.ones(64, 1, 1024)] * 10
    try:
        with pytest.raises(OSError, match="File too large"):
            write_features(tmp_path / "features", "weights", "images", {"train": (640, chunks)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_half_done(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    program = f"""
import os, signal
from pathlib import Path
import torch
from datamodules.packing.features import write_features
def chunks():
    yield torch.ones(2, 1, 2)
    os.kill(os.getpid(), signal.SIGKILL)
write_features(Path({str(folder)!r}), "weights", "images", {{"train": (3, chunks())}})
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not folder.exists()
    open_features(written(folder), "weights", empty())
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_flipped_bit_is_noticed_where_it_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, images = tmp_path / "features", 1000
    rows = torch.arange(images * 4).view(images, 1, 4).to(dtype)
    write_features(folder, "weights", "images", {"train": (images, [rows])})
    with (folder / "train.npy").open("r+b") as file:
        file.seek(-5 * 4 * rows.element_size() - 1, 2)  # in the sixth row from the end, which is not looked at before
        last = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([last ^ 1]))
    features = Features(torch.arange(images), torch.zeros(images), lambda: 0)
    open_features(folder, "weights", {"train": features})
    whole = features[torch.arange(images - 6)][0]
    assert torch.equal(whole, rows[: images - 6, 0])
    with pytest.raises(UserError, match=rf"{folder} holds other features than were written: .* remove"):
        features[torch.arange(images)]


def test_damaged_checksums_are_noticed_when_features_are_opened(tmp_path: Path) -> None:
    file = written(tmp_path / "features") / "train-checksums.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="its content is not what was written"):
        open_features(file.parent, "weights", empty())
