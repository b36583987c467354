"""The pickled batches in which CIFAR is distributed."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from core.user_error import UserError


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle nothing but arrays, because a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        is_array = module.split(".")[0] == "numpy" and name in ("_reconstruct", "_frombuffer", "ndarray", "dtype")
        if is_array or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it calls {module}.{name}")


def read_batch(path: Path) -> dict[str, Any]:
    """Read a batch that Python 2 or 3 wrote; its images are under `data`, uint8 `[N, 3072]`."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        values = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        return values | {"data": np.asarray(values["data"], np.uint8).reshape(-1, 3072)}
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise any exception
        raise UserError(f"{path} is no batch of CIFAR: {error}; fetch it again.") from error
