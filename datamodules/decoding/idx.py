"""The IDX format, in which MNIST is distributed."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.user_error import UserError


def find_idx(folder: Path, name: str) -> Path:
    """Return the path of a file, with `.gz` if only the compressed file exists."""
    plain, compressed = folder / name, folder / f"{name}.gz"
    return compressed if compressed.exists() and not plain.exists() else plain


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an array uint8 of any shape; a file named `.gz` is decompressed.

    A file has two zero bytes, a type (8 for unsigned bytes), the number of dimensions, each dimension as a big-endian
    32-bit number, and the values (LeCun, Cortes and Burges, "The MNIST database", 1998).
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError("its first bytes are not 0, 0, 8")
        start = 4 + 4 * data[3]
        shape = np.frombuffer(data[4:start], ">u4")
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError, IndexError) as error:
        raise UserError(f"{path} is no whole IDX file of unsigned bytes ({error}); fetch it again.") from error
