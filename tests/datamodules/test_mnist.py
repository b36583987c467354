import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.fashion_mnist import FashionMNIST
from datamodules.mnist import MNIST


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def scans() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Real digits in MNIST's size."""
    digits = load_digits()
    images = np.pad((digits.images * 15).astype(np.uint8).repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2)))
    return images, digits.target.astype(np.uint8)


def write_source(root: Path, name: str = "MNIST", packed: bool = False, **_: Any) -> Path:
    images, labels = scans()
    raw = root / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for prefix, rows in (("train", slice(0, 600)), ("t10k", slice(600, 800))):
        for part, array in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            data = idx(array)
            (raw / f"{prefix}-{part}-ubyte{'.gz' * packed}").write_bytes(gzip.compress(data) if packed else data)
    return raw


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("data_class", [MNIST, FashionMNIST])
def test_reads_the_real_layout_plain_or_gzip(tmp_path: Path, data_class: type[MNIST], packed: bool) -> None:
    write_source(tmp_path, data_class.__name__, packed)
    data = data_class(root=tmp_path, val_size=100)
    data.prepare_data()
    data.setup("fit")
    assert data.pack is not None
    assert len(data.splits["train"]) + len(data.splits["val"]) == 600
    images, labels = scans()
    assert data.splits["test"].tolist() == list(range(600, 800))
    given, answers = data.pack[data.splits["test"]]
    assert np.array_equal(given[:, 0].numpy(), images[600:800])
    assert answers.tolist() == labels[600:800].tolist()


def test_says_what_is_missing_and_where_to_get_it(tmp_path: Path) -> None:
    (write_source(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError) as error:
        MNIST(root=tmp_path).prepare_data()
    for words in ("MNIST cannot be read from", "t10k-labels-idx1-ubyte", "https://", "--data.download", "--data.root"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-5], "is no whole IDX file of unsigned bytes .cannot reshape"),
        (lambda data: b"<html>", "is no whole IDX file"),
        (lambda data: data[:6], "is no whole IDX file"),
    ],
)
def test_names_a_damaged_file(tmp_path: Path, damage: Any, words: str) -> None:
    file = write_source(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=rf"train-images-idx3-ubyte {words}"):
        MNIST(root=tmp_path).prepare_data()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:500],
        lambda data: data[:300] + bytes(200) + data[500:],
        lambda data: data[:-8] + bytes(8),
        lambda data: b"<html>",
    ],
)
def test_names_a_damaged_archive(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = write_source(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is no whole IDX file"):
        MNIST(root=tmp_path).prepare_data()


def test_refuses_labels_that_do_not_match(tmp_path: Path) -> None:
    (write_source(tmp_path) / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(599, np.uint8)))
    with pytest.raises(UserError, match=r"the train labels are int64 of shape \[599\]; give for each of 600 images"):
        MNIST(root=tmp_path).prepare_data()


def test_downloads_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: Path, download: bool) -> None:
        assert download
        write_source(Path(root))

    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    data = MNIST(root=tmp_path / "new", download=True)
    data.prepare_data()
    data.setup("fit")
    monkeypatch.setattr("torchvision.datasets.MNIST", lambda *_, **__: pytest.fail("downloaded again"))
    MNIST(root=tmp_path / "new", download=True).prepare_data()


@pytest.mark.parametrize("error", [OSError("Network is unreachable"), RuntimeError("Error downloading")])
def test_without_a_network_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(root: Path, download: bool) -> None:
        raise error

    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    with pytest.raises(UserError) as refusal:
        MNIST(root=tmp_path, download=True).prepare_data()
    for words in (str(error), "https://", str(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte")):
        assert words in str(refusal.value)
