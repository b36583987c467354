import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.user_error import UserError
from datamodules.batching.sampler import KeyedBatchSampler
from datamodules.packing.features import Features, write_features
from tests.discovery import ROOT

SPLITS = {"train": torch.tensor([5, 1, 3]), "val": torch.tensor([0, 4])}
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


def written(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    train = torch.arange(12).view(2, 3, 2).to(dtype)
    val = torch.arange(4).view(1, 2, 2).to(dtype)
    chunks = {
        "train": [(0, 0, train[0, :2]), (1, 0, train[1, :2]), (0, 2, train[0, 2:]), (1, 2, train[1, 2:])],
        "val": [(0, 0, val[0])],
    }
    write_features(folder, "weights", {"train": (2, 3), "val": (1, 2)}, chunks)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gives_the_variant_of_the_epoch_by_the_numbers_in_the_pack(tmp_path: Path, dtype: torch.dtype) -> None:
    features = Features(SPLITS, LABELS)
    sampler = KeyedBatchSampler(SPLITS["train"], 2)
    batches = features.batches("train", sampler)
    assert len(batches) == 3
    features.open(written(tmp_path / "features", dtype), "weights")
    for epoch, rows in enumerate([[[4, 5], [0, 1]], [[10, 11], [6, 7]], [[4, 5], [0, 1]]]):
        sampler.set_epoch(epoch)
        given, labels = batches[torch.tensor([3, 5])]
        assert given.dtype == dtype
        assert given.tolist() == rows
        assert labels.tolist() == [3, 5]


def test_refuses_features_of_something_else_and_of_other_splits(tmp_path: Path) -> None:
    folder = written(tmp_path / "features")
    with pytest.raises(ValueError, match="other weights"):
        Features(SPLITS, LABELS).open(folder, "other")
    with pytest.raises(ValueError, match="those of val are not"):
        Features(SPLITS | {"val": torch.tensor([0, 2, 4])}, LABELS).open(folder, "weights")
    with pytest.raises(ValueError, match="no features that can be used"):
        Features(SPLITS, LABELS).open(tmp_path / "nowhere", "weights")
    file = folder / "train.npy"
    file.write_bytes(file.read_bytes().replace(b"False", b"Fals("))  # for which NumPy has an error of its own
    with pytest.raises(ValueError, match="no features that can be used"):
        Features(SPLITS, LABELS).open(folder, "weights")


def test_leaves_nothing_behind_when_it_cannot_be_written(tmp_path: Path) -> None:
    huge = {"train": (1, 2**60)}
    with pytest.raises(OSError, match="bytes are needed"):
        write_features(tmp_path / "features", "weights", huge, {"train": [(0, 0, torch.ones(1, 2))]})
    assert not list(tmp_path.iterdir())


def test_leaves_nothing_behind_when_the_disk_fills_up_meanwhile(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    chunks = ((0, start, torch.ones(64, 1024)) for start in range(0, 640, 64))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_features(tmp_path / "features", "weights", {"train": (1, 640)}, {"train": chunks})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_nothing_half_done(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    program = f"""
import os, signal
from pathlib import Path
import torch
from core.user_error import UserError
from datamodules.packing.features import write_features
def chunks():
    yield 0, 0, torch.ones(2, 2)
    os.kill(os.getpid(), signal.SIGKILL)
write_features(Path({str(folder)!r}), "weights", {{"train": (1, 3)}}, {{"train": chunks()}})
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not folder.exists()
    Features(SPLITS, LABELS).open(written(folder), "weights")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_flipped_bit_is_noticed_where_it_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, images = tmp_path / "features", 500
    rows = torch.arange(2 * images * 4).view(2, images, 4).to(dtype)
    chunks = {"train": [(0, 0, rows[0]), (1, 0, rows[1])]}
    write_features(folder, "weights", {"train": (2, images)}, chunks)
    with (folder / "train.npy").open("r+b") as file:
        file.seek(-5 * 4 * rows.element_size() - 1, 2)  # in the sixth row from the end, which is not looked at before
        last = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([last ^ 1]))
    features = Features({"train": torch.arange(images)}, torch.zeros(images))
    features.open(folder, "weights")
    whole = features.gather("train", 0, torch.arange(images))[0]
    assert torch.equal(whole, rows[0])
    features.gather("train", 1, torch.arange(images - 6))
    with pytest.raises(UserError, match=rf"{folder} holds other features than were written: .* remove"):
        features.gather("train", 1, torch.arange(images))


def test_damaged_checksums_are_noticed_when_features_are_opened(tmp_path: Path) -> None:
    file = written(tmp_path / "features") / "train-checksums.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="those of train are not"):
        Features(SPLITS, LABELS).open(file.parent, "weights")
