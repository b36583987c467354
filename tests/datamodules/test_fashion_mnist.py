from pathlib import Path
from typing import Any

from datamodules.fashion_mnist import FashionMNIST
from tests.datamodules import test_mnist


def write_source(root: Path, **_: Any) -> None:
    test_mnist.write_source(root, "FashionMNIST")


def test_keeps_what_mnist_keeps(tmp_path: Path) -> None:
    """All else is read and tested there."""
    write_source(tmp_path)
    data = FashionMNIST(root=tmp_path)
    data.prepare_data()
    assert data.source_folder == tmp_path / "FashionMNIST" / "raw"
