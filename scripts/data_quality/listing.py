"""The images of a data set in the order of its source, with their names, labels and pictures."""

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
    """The images of the classes that a data module uses, `N` images of all splits of the source in sequence."""

    def __init__(self, data: ImageDataModule, source: Mapping[str, Rows]) -> None:
        self.class_names = list(data.class_names)
        self.parts: dict[str, Images] = {}
        rows, labels, columns = [], [], []
        for split, (images, source_labels, source_columns) in source.items():
            if split == "test" and data.tests_on_validation:
                continue
            mapped = source_labels
            if data.label_map is not None:
                mapped = selected_labels(torch.from_numpy(source_labels), data.label_map).numpy()
            rows.append(np.arange(len(mapped)) if data.is_multi_label else np.flatnonzero(mapped >= 0))
            labels.append(mapped[rows[-1]])
            columns.append({name: values[rows[-1]] for name, values in source_columns.items()})
            self.parts[split] = images if len(rows[-1]) == len(images) else _selected(images, rows[-1])
        self.rows = np.concatenate(rows)  # the place of each image in its part of the source, int64 [N]
        self.labels = np.concatenate(labels)  # int64 [N] or uint8 [N, K]
        # What the source says besides, such as the group of each image, [N]
        self.columns = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
        self.ends = np.cumsum([len(images) for images in self.parts.values()])

    def __len__(self) -> int:
        return len(self.labels)

    def find(self, place: int) -> tuple[str, Images, int]:
        """The source's split of an image, the images of this split, and the image's index among them."""
        number = int(np.searchsorted(self.ends, place, side="right"))
        split, images = list(self.parts.items())[number]
        return split, images, place - int(self.ends[number]) + len(images)

    def name(self, place: int) -> str:
        """The path of an image in the source's folder, or its split and place there, as in `train[123]`."""
        split, images, index = self.find(place)
        if isinstance(images, ImageFiles):
            return escape_name(os.fsdecode(images.names[index]))
        return f"{split}[{self.rows[place]}]"

    def picture(self, place: int) -> Image.Image:
        """The image as a viewer shows it."""
        _, images, index = self.find(place)
        return view(images, index)[1]


def _selected(images: Images, rows: NDArray[np.int64]) -> Images:
    if isinstance(images, ImageFiles):
        return replace(images, names=images.names[rows])
    return images[rows]


def view(images: Images, index: int) -> tuple[NDArray[Any], Image.Image, tuple[int, int], str]:
    """Decode an image at its full size: its pixels, its picture in colour, its stored size (width, height) and mode.

    The pixels are those of the picture, which is as a viewer shows it (upright, 8 bits, on white), or else levels
    `[C, H, W]`, of which `as_rgb` makes the picture.
    """
    if isinstance(images, ImageFiles):
        path, channels, pixels = images.path(index), images.image_shape[0], images.pixel_format
        if pixels.is_plain(channels) and not holds_numbers(path):
            with open_image(path) as image:
                stored = image.size, image.mode
                shown = as_shown(image).convert("RGB")
                return np.asarray(shown), shown, *stored
        levels = pixels.levels(pixels.numbers(path, channels), channels)
    else:
        levels = np.asarray(images[index])
    count, height, width = levels.shape
    mode = {1: "L", 3: "RGB"}.get(count, f"{count} channels") + (" in 16 bits" if levels.dtype == np.uint16 else "")
    return levels, picture(as_rgb(torch.tensor(levels)[None])[0]), (width, height), mode
