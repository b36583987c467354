"""The IDX format that MNIST is distributed in."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.user_error import UserError


def find_idx(folder: Path, name: str) -> Path:
    """The file of this name, plain or with `.gz` behind it; where there is neither, the plain one's path."""
    packed = folder / f"{name}.gz"
    return packed if packed.exists() and not (folder / name).exists() else folder / name


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an array of bytes, uint8 in the shape that the file declares; gzip if its name ends in `.gz`.

    Two zero bytes, a type (8 for unsigned bytes), the number of dimensions, each dimension as a big-endian 32-bit
    number, and the values (LeCun, Cortes and Burges, "The MNIST database", 1998).
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError("its type is another")
        start = 4 + 4 * data[3]
        return np.frombuffer(data, np.uint8, offset=start).reshape(np.frombuffer(data[4:start], ">u4"))
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError, IndexError) as error:
        raise UserError(f"{path} is no whole IDX file of unsigned bytes ({error}); fetch it again.") from error
