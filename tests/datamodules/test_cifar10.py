import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.cifar10 import CIFAR10
from datamodules.cifar100 import CIFAR100


def pictures(count: int) -> NDArray[np.uint8]:
    """Real digits in CIFAR's size, each channel of another brightness, uint8 `[N, 3, 32, 32]`."""
    scans = (load_digits().images[:count, None] * 5).astype(np.uint8).repeat(4, 2).repeat(4, 3)
    return np.concatenate([scans, 2 * scans, 3 * scans], axis=1)


def write_source(
    root: Path, data_class: type[CIFAR10] = CIFAR10, protocol: int = 2, count: int = 200, **_: Any
) -> None:
    """The distributed batches, pickled as Python 2 did, as many images of each class."""
    images, folder = pictures(count).reshape(count, -1), root / data_class.batches_folder
    folder.mkdir(parents=True, exist_ok=True)
    labels = [row % len(data_class.class_names) for row in range(count)]
    files = [name for names in data_class.batches.values() for name in names]
    for name, rows in zip(files, np.array_split(np.arange(count), len(files)), strict=True):
        batch = {b"data": images[rows], data_class.label_key.encode(): [labels[row] for row in rows]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))


def prepared(data_class: type[CIFAR10], root: Path, **arguments: Any) -> CIFAR10:
    data = data_class(root=root, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("protocol", [2, 5])
def test_reads_the_distributed_batches(tmp_path: Path, protocol: int) -> None:
    write_source(tmp_path, protocol=protocol)
    data = prepared(CIFAR10, tmp_path, val_size=30)
    assert data.pack is not None
    assert len(data.splits["train"]) + len(data.splits["val"]) == 167
    assert len(data.splits["test"]) == 33
    images, labels = data.pack[torch.arange(200)]
    assert np.array_equal(images.numpy(), pictures(200))
    assert labels.tolist() == [row % 10 for row in range(200)]


def test_reads_the_hundred_fine_classes(tmp_path: Path) -> None:
    write_source(tmp_path, CIFAR100, count=600)
    data = prepared(CIFAR100, tmp_path, val_size=0.2)
    assert data.num_classes == len(set(data.class_names)) == 100
    assert len(data.splits["test"]) == 300
    assert min(data.class_counts) > 0
    assert data.pack is not None
    assert data.pack.labels.tolist() == list(range(100)) * 6


def test_a_selection_of_classes_is_relabelled_in_its_order(tmp_path: Path) -> None:
    write_source(tmp_path)
    data = prepared(CIFAR10, tmp_path, classes=["bird", "airplane"], val_size=0.2)
    assert list(data.class_names) == ["bird", "airplane"]
    assert data.pack is not None
    for split in data.splits.values():
        images, labels = data.pack[split]
        for row, label in zip(split.tolist(), labels.tolist(), strict=True):
            assert row % 10 == (2 if label == 0 else 0)
        assert np.array_equal(images.numpy(), pictures(200)[split])
    assert sum(data.class_counts) == len(data.splits["train"])
    assert sum(map(len, data.splits.values())) == 40
    means = pictures(200)[data.splits["train"]].mean(axis=(0, 2, 3)) / 255
    assert data.mean == pytest.approx(means.tolist())


@pytest.mark.parametrize("between", ["", "vehicles"])
def test_reads_class_folders_of_files_with_the_same_result(tmp_path: Path, between: str) -> None:
    write_source(tmp_path / "batches")
    for row, image in enumerate(pictures(200)):
        split, name = "train" if row < 167 else "test", CIFAR10.class_names[row % 10]
        file = tmp_path / "files" / "cifar10" / split / between / name / f"{row:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(file)
    one, other = (prepared(CIFAR10, tmp_path / folder, val_size=0.2) for folder in ("batches", "files"))
    assert one.pack is not None
    assert other.pack is not None
    for label in range(10):
        mine, theirs = (
            {image.numpy().tobytes() for image in pack[torch.nonzero(pack.labels == label).flatten()][0]}
            for pack in (one.pack, other.pack)
        )
        assert mine == theirs


def test_names_a_folder_that_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "cifar10" / "train" / "unicorn").mkdir(parents=True)
    (tmp_path / "cifar10" / "train" / "unicorn" / "1.png").touch()
    with pytest.raises(UserError, match="unicorn, which is no class of CIFAR10"):
        CIFAR10(root=tmp_path).prepare_data()


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    write_source(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(UserError, match=r"data_batch_3: No such file"):
        CIFAR10(root=tmp_path).prepare_data()
