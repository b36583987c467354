from pathlib import Path
from typing import Any

from datamodules.cifar100 import CIFAR100
from tests.datamodules import test_cifar10


def write_source(root: Path, **_: Any) -> None:
    test_cifar10.write_source(root, CIFAR100, count=600)


def test_keeps_what_cifar10_keeps(tmp_path: Path) -> None:
    """All else is read and tested there."""
    write_source(tmp_path)
    data = CIFAR100(root=tmp_path)
    data.prepare_data()
    assert data.source_folder == tmp_path / "cifar-100-python"
