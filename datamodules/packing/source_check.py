"""See that a data set is what it says, once, before it is packed: each fault is one sentence with what to change."""

from collections import Counter
from collections.abc import Mapping, Sequence
from inspect import getattr_static
from typing import Any, Never

import numpy as np
from numpy.typing import NDArray

from core.user_error import UserError
from datamodules.batching.split import SPLITS
from datamodules.decoding.image_files import ImageFiles
from datamodules.packing.pack import Source


def check_declaration(data: Any) -> None:
    """See that class names are different texts, and the shape is three numbers."""

    def refuse(sentence: str) -> Never:
        raise UserError(f"{type(data).__name__}.{sentence}")

    def declared(name: str) -> Any:
        return None if getattr_static(data, name, None) is None else getattr(data, name)

    # Names that are read from a file may be there twice; they are made different.
    is_written = isinstance(getattr_static(data, "class_names", None), Sequence)
    class_names, image_shape = declared("class_names"), declared("image_shape")
    if isinstance(class_names, str) or not isinstance(class_names, Sequence):
        refuse(f'class_names is {class_names!r}; give one text for each class, such as ("cat", "dog").')
    if others := [each for each in class_names if not isinstance(each, str) or not each]:
        refuse(f'class_names has {others[0]!r}, which is no text; write names such as "cat".')
    if is_written and (twice := [each for each, count in Counter(class_names).items() if count > 1]):
        refuse(f"class_names has {twice[0]} twice; give every class a name of its own.")
    whole = isinstance(image_shape, Sequence) and all(type(each) is int and each > 0 for each in image_shape)
    if not whole or len(image_shape) != 3:
        refuse(f"image_shape is {image_shape!r}; give channels, height and width, such as (3, 32, 32).")


def checked(name: str, source: Any, class_names: Sequence[str], image_shape: tuple[int, int, int]) -> Source:
    """Give what a data set's `read` has returned if it can be packed, with labels of any whole numbers as int64."""
    whole = "return {'train': (images, labels)}, and 'val' and 'test' if the source has them"
    if not isinstance(source, Mapping):
        raise UserError(f"{name}.read returns {_kind(source)}; {whole}.")
    for split, pair in source.items():
        if split not in SPLITS:
            raise UserError(f"{name}.read returns a split {split!r}; {whole}.")
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"{name}.read returns {_kind(pair)} for the {split} split; {whole}.")
    if "train" not in source:
        raise UserError(f"{name}.read returns no 'train' split; {whole}.")
    checked_source = {}
    for split, (images, labels) in source.items():
        _check_images(f"{name}.read: the {split} images", images, image_shape)
        what = f"{name}.read: the {split} labels"
        checked_source[split] = images, _labels(what, labels, len(images), class_names, split)
    return checked_source


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _check_images(what: str, images: Any, image_shape: tuple[int, int, int]) -> None:
    def refuse(sentence: str) -> Never:
        raise UserError(f"{what} {sentence}.")

    wanted = f"[N, {', '.join(map(str, image_shape))}]"
    shape = tuple(images.shape) if hasattr(images, "shape") else None
    if not isinstance(images, ImageFiles):
        if shape is None or not hasattr(images, "dtype"):
            refuse(f"are {_kind(images)}; give an array uint8 {wanted}, or files by decoding.image_files.listed")
        dtype = str(images.dtype).removeprefix("torch.")
        if dtype.startswith(("<U", ">U", "|S", "object")):
            refuse("are no numbers; have files listed by datamodules.decoding.image_files.listed")
        if dtype != "uint8":
            remedy = {"uint16": "divide by 257", "bool": "multiply by 255"}.get(dtype, "scale them to 0 to 255")
            refuse(f"are {dtype}; {remedy} and give uint8, as by .round().astype(np.uint8)")
    assert shape is not None, "files have one"
    if shape[1:] != tuple(image_shape):
        channels, height, width = image_shape
        axes = {
            (height, width, channels): "put the channels first, as by .transpose(0, 3, 1, 2)",
            (height, width): "add the axis of channels, as by images[:, None]",
        }
        remedy = axes.get(shape[1:], "make one of the two fit the other")
        refuse(f"are of shape {list(shape)}, but image_shape says {wanted}; {remedy}")


def _labels(what: str, given: Any, images: int, class_names: Sequence[str], split: str) -> NDArray[np.int64]:
    def refuse(sentence: str) -> Never:
        raise UserError(f"{what} {sentence}.")

    labels, classes = np.asarray(given), len(class_names)
    if labels.ndim == 2 and labels.shape[1] == classes:
        refuse(f"are of shape {list(labels.shape)}, one column for each class; give .argmax(axis=1)")
    if labels.ndim != 1:
        refuse(f"are of shape {list(labels.shape)}; give one number for each image, [N]")
    if labels.dtype.kind in "USO":
        refuse("are no numbers; give each class's place in class_names, as by class_names.index(name)")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        refuse(f"have NaN for image {int(np.isnan(labels).argmax())}; leave images without a label out")
    if labels.dtype.kind not in "iu":
        refuse(f"are {labels.dtype}; give whole numbers, as by .astype(np.int64)")
    if len(labels) != images:
        refuse(f"are {len(labels)}, but there are {images} images; give one for each")
    if len(outside := np.flatnonzero((labels < 0) | (labels >= classes))):
        raise UserError(
            f"Label {labels[outside[0]]} of image {outside[0]} in the {split} split is outside the "
            f"{classes} classes, 0 to {classes - 1}; correct the label or add the class's name."
        )
    return labels.astype(np.int64)
