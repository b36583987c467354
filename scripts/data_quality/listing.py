"""List the images of a data set in the order of its source, with their names, labels and pictures."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from callbacks.tensorboard.image_grid import as_rgb, picture
from core.names import escape_name
from datamodules.base import ImageDataModule
from datamodules.decoding.image_file import as_shown, holds_numbers, open_image
from datamodules.decoding.image_files import ImageFiles
from datamodules.packing.pack import Images, Rows, selected_labels


class Listing:
    """The `N` images of the classes that a data module uses, of all splits of the source in sequence."""

    def __init__(self, data: ImageDataModule, source: Mapping[str, Rows]) -> None:
        self.class_names = list(data.class_names)
        self.parts: dict[str, Images] = {}  # the images of each split of the source
        self.names: list[str] = []  # paths in the source's folder, or indices in a split, such as `train[123]`
        labels_of_parts, columns_of_parts = [], []
        for split, (images, labels, columns) in source.items():
            if split == "test" and data.tests_on_validation:
                continue
            if data.label_map is not None:
                labels = selected_labels(torch.from_numpy(labels), data.label_map).numpy()
            rows = np.arange(len(labels)) if data.is_multi_label else np.flatnonzero(labels >= 0)
            if isinstance(images, ImageFiles):
                self.parts[split] = replace(images, names=images.names[rows])
                self.names += [escape_name(os.fsdecode(name)) for name in images.names[rows]]
            else:
                self.parts[split] = images if len(rows) == len(images) else images[rows]
                self.names += [f"{split}[{row}]" for row in rows]
            labels_of_parts.append(labels[rows])
            columns_of_parts.append({name: values[rows] for name, values in columns.items()})
        self.labels = np.concatenate(labels_of_parts)  # int64 `[N]`, or uint8 `[N, K]` if multi-label
        self.columns = {
            name: np.concatenate([columns[name] for columns in columns_of_parts]) for name in columns_of_parts[0]
        }

    def picture(self, index: int) -> Image.Image:
        """Return an image as a viewer shows it."""
        for images in self.parts.values():
            if index < len(images):
                return view(images, index)[1]
            index -= len(images)
        raise IndexError(index)


def view(images: Images, index: int) -> tuple[NDArray[Any], Image.Image, tuple[int, int], str]:
    """Decode an image at its full size; return its pixels, its picture in RGB, and its stored (width, height) and mode.

    The pixels are those of the picture or, of arrays and files that hold numbers, levels `[C, H, W]`.
    """
    if isinstance(images, ImageFiles):
        path, channels, pixel_format = images.path(index), images.image_shape[0], images.pixel_format
        if pixel_format.is_plain(channels) and not holds_numbers(path):
            with open_image(path) as image:
                size, mode = image.size, image.mode
                colour = as_shown(image).convert("RGB")
                return np.asarray(colour), colour, size, mode
        levels = pixel_format.levels(pixel_format.numbers(path, channels), channels)
    else:
        levels = np.asarray(images[index])
    count, height, width = levels.shape
    mode = {1: "L", 3: "RGB"}.get(count, f"{count} channels") + (" in 16 bits" if levels.dtype == np.uint16 else "")
    return levels, picture(as_rgb(torch.tensor(levels)[None])[0]), (width, height), mode
