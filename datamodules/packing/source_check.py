"""Check what a data set's `read` returned before it is packed; each error message says what to change."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.user_error import UserError
from datamodules.batching.split import SPLITS
from datamodules.packing.pack import Rows, files_of

EXPECTED = "return {'train': (images, labels)}, and 'val' and 'test' if the source has them"


def checked(
    name: str, source: Any, class_names: Sequence[str], image_shape: tuple[int, int, int], is_multi_label: bool = False
) -> dict[str, Rows]:
    """Return a source that can be packed: labels int64 `[N]`, or uint8 `[N, K]` if multi-label, and checked columns.

    If images are files, the first readable one decides the pixel format of all. Anything wrong raises UserError.
    """
    method = f"{name}.read:"
    for fault in _faults(source, len(class_names), image_shape, is_multi_label):
        raise UserError(f"{method} {fault}.")
    columns = {split: _columns(f"{method} the {split} split", *rows[1:]) for split, rows in source.items()}
    if len({frozenset(split_columns) for split_columns in columns.values()}) > 1:
        raise UserError(f"{name}.read returns other columns for one split than for another; give each the same.")
    folds = [fold for split_columns in columns.values() for fold in split_columns.get("fold", ())]
    if folds and len(gaps := np.setdiff1d(np.arange(max(2, max(folds) + 1)), folds)):
        raise UserError(
            f"{name}: the fold column has no image in fold {gaps[0]}; give at least two, numbered from 0 without gaps."
        )
    images = {split: rows[0] for split, rows in source.items()}
    if (files := files_of(images["train"])) is not None:
        from datamodules.decoding.image_files import decide_pixel_format

        pixel_format = decide_pixel_format(files)
        images = {split: replace(split_files, pixel_format=pixel_format) for split, split_files in images.items()}
    dtype = np.uint8 if is_multi_label else np.int64
    return {
        split: Rows(images[split], np.asarray(rows[1]).astype(dtype), columns[split]) for split, rows in source.items()
    }


def _faults(source: Any, classes: int, image_shape: tuple[int, int, int], is_multi_label: bool) -> Iterator[str]:
    """Yield what is wrong; each check relies on the checks before it, so only the first fault is meaningful."""
    if not isinstance(source, Mapping):
        yield f"it returns {_kind(source)}; {EXPECTED}"
    if "train" not in source or not source.keys() <= set(SPLITS):
        yield f"it returns the splits {list(source)}; {EXPECTED}"
    for split, rows in source.items():
        if not isinstance(rows, tuple | list) or len(rows) not in (2, 3):
            yield f"it returns {_kind(rows)} for the {split} split; {EXPECTED}"
        yield from _image_faults(f"the {split} images", rows[0], image_shape)
        yield from _label_faults(f"the {split} labels", np.asarray(rows[1]), len(rows[0]), classes, is_multi_label)
    kinds = {_dtype(images) if files_of(images) is None else "files" for images, *_ in source.values()}
    if len(kinds) > 1:
        yield f"it returns {' and '.join(sorted(kinds))} for different splits; give all as files, uint8 or uint16"


def _image_faults(subject: str, images: Any, image_shape: tuple[int, int, int]) -> Iterator[str]:
    shape = f"[N, {', '.join(map(str, image_shape))}]"
    kind = _dtype(images) if hasattr(images, "shape") and hasattr(images, "dtype") else _kind(images)
    if kind not in ("uint8", "uint16"):
        yield (
            f"{subject} are {kind}; give an array uint8 {shape} of 0 to 255, as by (images * 255).round()"
            ".astype(np.uint8), or uint16, or files by datamodules.decoding.image_files.listed"
        )
    if tuple(images.shape[1:]) != tuple(image_shape):
        yield (
            f"{subject} are of shape {list(images.shape)}, but image_shape says {shape}; make one fit the other, as by "
            "images.transpose(0, 3, 1, 2) for channels that come last"
        )


def _label_faults(subject: str, labels: NDArray[Any], images: int, classes: int, is_multi_label: bool) -> Iterator[str]:
    stored = f"{subject} are {labels.dtype} of shape {list(labels.shape)}"
    if is_multi_label:
        if labels.shape != (images, classes) or not np.isin(labels, (0, 1)).all():
            yield f"{stored}; give [{images}, {classes}], a column for each class: 1 for each that an image has, else 0"
        return
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        yield (
            f"{stored}; give for each of {images} images a whole number, the place of its class in class_names, as by "
            ".argmax(axis=1) or class_names.index(name), or say is_multi_label = True if it may have several labels"
        )
    if len(outside := np.flatnonzero((labels < 0) | (labels >= classes))):
        yield (
            f"{subject} have {labels[outside[0]]} for image {outside[0]}, outside the {classes} classes, 0 to "
            f"{classes - 1}; correct the label or add the class's name"
        )


def _columns(subject: str, labels: Any, columns: Any = None) -> dict[str, NDArray[Any]]:
    if not isinstance(columns, Mapping | None):
        raise UserError(f"{subject} has {_kind(columns)} as columns; give {{'group': groups}}.")
    if not columns:
        return {}
    from datamodules.packing.columns import checked_column

    converted = {}
    for column, values in columns.items():
        place = f"{subject}: the column {column}"
        try:
            converted[column] = checked_column(column, np.asarray(values), len(labels))
        except ValueError as error:
            raise UserError(f"{place} {error}.") from error
    return converted


def _dtype(images: Any) -> str:
    return str(images.dtype).removeprefix("torch.")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
