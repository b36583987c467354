"""Check, write and read the columns of a source: values of each image besides its label, `[N]` each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FILE = "columns.parquet"

RESERVED = ("group", "fold", "weight")  # columns with a meaning; all others are only carried along


def checked_column(name: str, values: NDArray[Any], images: int) -> NDArray[Any]:
    """Convert a column to int64, float64, or an object array of `str`; raise ValueError if it is invalid."""
    kind = values.dtype.kind
    is_text = name == "group" or (kind in "OU" and name not in RESERVED)
    if values.shape != (images,):
        raise ValueError(f"has shape {list(values.shape)}, but there are {images} images; give one value for each")
    if is_text:
        values = np.array(["" if value is None else str(value) for value in values.tolist()], object)
    elif kind not in "biuf":
        raise ValueError(f"is {values.dtype}; give numbers{'' if name in RESERVED else ' or text'}")
    if name == "group" and len(empty := np.flatnonzero(np.isin(values, ("", "nan")))):
        raise ValueError(f"is empty for image {empty[0]}; give every image a group, such as its own name")
    if name == "fold" and not (np.isfinite(values) & (values >= 0) & (values % 1 == 0)).all():
        raise ValueError("has values that are not 0, 1, 2 and so on; number the folds from 0, and give every image one")
    if name == "weight" and not (np.isfinite(values) & (values > 0)).all():
        raise ValueError("has values that are no positive numbers; give every image one, or leave images out")
    if is_text:
        return values
    is_float = name == "weight" or (name != "fold" and kind == "f")
    return values.astype(np.float64 if is_float else np.int64)


def write_columns(folder: Path, columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Write columns into a folder, and return the reserved ones as bytes, for the fingerprint of the data."""
    pq.write_table(pa.table(dict(columns)), folder / FILE)
    parts = ["\0".join((name, *map(str, columns[name].tolist()))) for name in RESERVED if name in columns]
    return "\0".join(parts).encode(errors="surrogateescape")


def read_columns(folder: Path) -> dict[str, NDArray[Any]]:
    """Read the columns in a folder."""
    with pq.ParquetFile(folder / FILE) as file:
        table = file.read()
    return {name: table[name].to_numpy().copy() for name in table.column_names}  # torch requires a writable array
