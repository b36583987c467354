"""Check once, before a data set is packed, that it is what it says: each fault is one sentence with what to change."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import getattr_static
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.user_error import UserError
from datamodules.batching.split import SPLITS
from datamodules.decoding.image_files import ImageFiles, settled
from datamodules.packing.columns import checked_column
from datamodules.packing.pack import Rows


def check_declaration(data: Any) -> None:
    """Check that class names are different texts, and that the shape is three numbers."""
    if fault := _class_names_fault(data) or _image_shape_fault(_declared(data, "image_shape")):
        raise UserError(f"{type(data).__name__}.{fault}.")


def _declared(data: Any, name: str) -> Any:
    return None if getattr_static(data, name, None) is None else getattr(data, name)


def _class_names_fault(data: Any) -> str:
    # Names that are read from a file, when they are asked for, may be there twice; they are made different.
    is_written = isinstance(getattr_static(data, "class_names", None), Sequence)
    class_names = _declared(data, "class_names")
    if isinstance(class_names, str) or not isinstance(class_names, Sequence):
        return f'class_names is {class_names!r}; give one text for each class, such as ("cat", "dog")'
    if others := [each for each in class_names if not isinstance(each, str) or not each]:
        return f'class_names has {others[0]!r}, which is no text; write names such as "cat"'
    if is_written and (twice := [each for each, count in Counter(class_names).items() if count > 1]):
        return f"class_names has {twice[0]} twice; give every class a name of its own"
    return ""


def _image_shape_fault(image_shape: Any) -> str:
    is_whole = isinstance(image_shape, Sequence) and all(type(each) is int and each > 0 for each in image_shape)
    if is_whole and len(image_shape) == 3:
        return ""
    return f"image_shape is {image_shape!r}; give channels, height and width, such as (3, 32, 32)"


def checked(
    name: str, source: Any, class_names: Sequence[str], image_shape: tuple[int, int, int], is_multi_label: bool = False
) -> dict[str, Rows]:
    """Give what a data set's `read` has returned if it can be packed, with labels of any whole numbers as int64.

    Several labels per image, a column of 0 and 1 for each class, become uint8.
    """
    whole = "return {'train': (images, labels)}, and 'val' and 'test' if the source has them"
    if not isinstance(source, Mapping):
        raise UserError(f"{name}.read returns {_kind(source)}; {whole}.")
    for split, pair in source.items():
        if split not in SPLITS:
            raise UserError(f"{name}.read returns a split {split!r}; {whole}.")
        if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
            raise UserError(f"{name}.read returns {_kind(pair)} for the {split} split; {whole}.")
    if "train" not in source:
        raise UserError(f"{name}.read returns no 'train' split; {whole}.")
    checked_source: dict[str, Rows] = {}
    for split, (images, given, *rest) in source.items():
        what = f"{name}.read: the {split} images"
        if fault := _images_fault(images, image_shape):
            raise UserError(f"{what} {fault}.")
        what, labels = f"{name}.read: the {split} labels", np.asarray(given)
        if fault := _labels_fault(labels, len(images), len(class_names), is_multi_label):
            raise UserError(f"{what} {fault}.")
        if len(outside := np.flatnonzero((labels < 0) | (labels >= len(class_names)))):
            raise UserError(
                f"Label {labels[outside[0]]} of image {outside[0]} in the {split} split is outside the "
                f"{len(class_names)} classes, 0 to {len(class_names) - 1}; correct the label or add the class's name."
            )
        columns = dict[str, NDArray[Any]]()
        if rest and not isinstance(rest[0], Mapping):
            raise UserError(f"{name}.read returns {_kind(rest[0])} as the {split} columns; give {{'group': groups}}.")
        for column, values in (rest[0] if rest else {}).items():
            what = f"{name}: the {column} column of the {split} split"
            try:
                columns[column] = checked_column(column, np.asarray(values), len(images))
            except ValueError as error:
                raise UserError(f"{what} {error}.") from error
        checked_source[split] = Rows(images, labels.astype(np.uint8 if is_multi_label else np.int64), columns)
    if len({frozenset(rows.columns) for rows in checked_source.values()}) > 1:
        raise UserError(f"{name}.read returns other columns for one split than for another; give each the same.")
    folds = [fold for rows in checked_source.values() for fold in rows.columns.get("fold", ())]
    if folds and len(gaps := np.setdiff1d(np.arange(max(2, max(folds) + 1)), folds)):
        raise UserError(
            f"{name}: the fold column has no image in fold {gaps[0]}; give at least two, numbered from 0 without gaps."
        )
    return _in_one_format(name, checked_source)


def _in_one_format(name: str, source: dict[str, Rows]) -> dict[str, Rows]:
    """The same images, their files all read as the first of them decides."""
    files = [rows.images for rows in source.values() if isinstance(rows.images, ImageFiles)]
    dtypes = {str(rows.images.dtype).removeprefix("torch.") for rows in source.values()}
    if len(files) not in (0, len(source)) or (not files and len(dtypes) > 1):
        raise UserError(
            f"{name}.read returns other kinds of images for one split than for another; give all as files, or all as "
            "uint8, or all as uint16."
        )
    if not files:
        return source
    pixel_format = settled(files[0])
    return {
        split: Rows(replace(images, pixel_format=pixel_format), rows.labels, rows.columns)
        for (split, rows), images in zip(source.items(), files, strict=True)
    }


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _images_fault(images: Any, image_shape: tuple[int, int, int]) -> str:
    wanted = f"[N, {', '.join(map(str, image_shape))}]"
    if not isinstance(images, ImageFiles):
        if not hasattr(images, "shape") or not hasattr(images, "dtype"):
            return f"are {_kind(images)}; give an array uint8 {wanted}, or files by decoding.image_files.listed"
        dtype = str(images.dtype).removeprefix("torch.")
        if dtype.startswith(("<U", ">U", "|S", "object")):
            return "are no numbers; have files listed by datamodules.decoding.image_files.listed"
        if dtype not in ("uint8", "uint16"):
            remedy = "multiply by 255" if dtype == "bool" else "scale them to 0 to 255, or to 65535 for uint16,"
            return f"are {dtype}; {remedy} and give uint8, as by .round().astype(np.uint8)"
    shape = tuple(images.shape)
    if shape[1:] == tuple(image_shape):
        return ""
    channels, height, width = image_shape
    remedies = {
        (height, width, channels): "put the channels first, as by .transpose(0, 3, 1, 2)",
        (height, width): "add the axis of channels, as by images[:, None]",
    }
    remedy = remedies.get(shape[1:], "make one of the two fit the other")
    return f"are of shape {list(shape)}, but image_shape says {wanted}; {remedy}"


def _labels_fault(labels: NDArray[Any], images: int, classes: int, is_multi_label: bool) -> str:
    if is_multi_label:
        if labels.shape != (images, classes):
            return f"are of shape {list(labels.shape)}; give [{images}, {classes}], a column of 0 and 1 for each class"
        wrong = labels[(labels != 0) & (labels != 1)]
        return f"have {wrong[0]}; give 1 for each class that an image has, else 0" if len(wrong) else ""
    if labels.ndim == 2 and labels.shape[1] == classes:
        whole = "or say is_multi_label = True in the class if an image may have several labels"
        return f"are of shape {list(labels.shape)}, one column for each class; give .argmax(axis=1), {whole}"
    if labels.ndim != 1:
        return f"are of shape {list(labels.shape)}; give one number for each image, [N]"
    if labels.dtype.kind in "USO":
        return "are no numbers; give each class's place in class_names, as by class_names.index(name)"
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        return f"have NaN for image {int(np.isnan(labels).argmax())}; leave images without a label out"
    if labels.dtype.kind not in "iu":
        return f"are {labels.dtype}; give whole numbers, as by .astype(np.int64)"
    if len(labels) != images:
        return f"are {len(labels)}, but there are {images} images; give one for each"
    return ""
