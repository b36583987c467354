"""The pickled batches that CIFAR is distributed in."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from core.user_error import UserError


class _ArraysOnly(pickle.Unpickler):
    """Refuses every call but those that make an array: a data set has no business to run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "_frombuffer", "ndarray", "dtype"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it calls {module}.{name}")


def read_batch(path: Path) -> dict[str, Any]:
    """Read a batch, as Python 2 or 3 wrote it; torchvision's reader runs whatever is pickled in it."""
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        named = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        return named | {"data": np.asarray(named["data"], np.uint8).reshape(-1, 3072)}
    except OSError:
        raise
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise UserError(f"{path} is no batch of CIFAR: {error}; fetch it again.") from error
