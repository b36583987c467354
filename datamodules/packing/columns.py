"""What a source says of each image besides its label: the columns of a table, `N` values each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "columns.parquet"

RESERVED = ("group", "fold", "weight")  # the columns that mean something; all others are carried along


def plain_column(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """A column as it is kept: text as objects of `str`, which one long text does not widen; int64 or float64."""
    if name == "group" or values.dtype.kind in "OU":
        return np.array(["" if value is None else str(value) for value in values.tolist()], object)
    is_float = name == "weight" or (name != "fold" and values.dtype.kind == "f")
    return values.astype(np.float64 if is_float else np.int64)


def column_fault(name: str, values: NDArray[Any], images: int) -> str:
    """What is wrong with a column of a split of so many images, and what to do; nothing if it is right."""
    if values.shape != (images,):
        return f"has shape {list(values.shape)}, but there are {images} images; give one value for each"
    if name == "group" and len(empty := np.flatnonzero(np.isin(plain_column(name, values), ("", "nan")))):
        return f"is empty for image {empty[0]}; give every image a group, such as its own name"
    if name in ("fold", "weight"):
        number = values if values.dtype.kind in "iuf" else np.full(images, np.nan)
        if name == "fold" and not (np.isfinite(number) & (number >= 0) & (number % 1 == 0)).all():
            return "has values that are not 0, 1, 2 and so on; number the folds from 0, and give every image one"
        if name == "weight" and not (np.isfinite(number) & (number > 0)).all():
            return "has values that are no positive numbers; give every image one, or leave images out"
    return "" if values.dtype.kind in "OUbiuf" else f"is {values.dtype}; give text or numbers"


def folds_fault(folds: NDArray[np.int64]) -> str:
    """What is wrong with the folds of all images, and what to do; nothing if they are 0, 1, ... without a gap."""
    there = np.unique(folds)
    if len(there) < 2:
        return f"has only the fold {there[0]}; give at least two"
    if len(gaps := np.setdiff1d(np.arange(there[-1]), there)):
        return f"goes to {there[-1]} but no image is in fold {gaps[0]}; number the folds from 0 without gaps"
    return ""


def column_bytes(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Those columns that decide what is trained on, as bytes that change with them."""
    parts = ["\0".join((name, *map(str, columns[name].tolist()))) for name in RESERVED if name in columns]
    return "\0".join(parts).encode(errors="surrogateescape")


def write_columns(folder: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns into a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), folder / FILE)


def read_columns(folder: Path) -> dict[str, NDArray[Any]]:
    """Read the columns in a folder."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / FILE) as file:
        table = file.read()
    return {name: table[name].to_numpy().copy() for name in table.column_names}  # writable, as torch wants it
