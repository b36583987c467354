import pickle
from pathlib import Path
from typing import Any

import pytest

from core.user_error import UserError
from datamodules.decoding.cifar_batch import read_batch


def test_a_batch_that_carries_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Code(), "labels": [0]}))
    with pytest.raises(UserError, match=r"data_batch_1 is no batch of CIFAR: it calls"):
        read_batch(tmp_path / "data_batch_1")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"<html>", pickle.dumps([1, 2]), pickle.dumps({"labels": []})])
def test_names_a_damaged_batch(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match=r"test_batch is no batch of CIFAR"):
        read_batch(tmp_path / "test_batch")
