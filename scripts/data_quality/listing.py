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
        self.parts: dict[str, Images] = {}  # the images of each split of the source
        self.names: list[str] = []  # paths in the source's folder, or places in a split as in `train[123]`
        labels, columns = [], []
        for split, (images, given, own) in source.items():
            if split == "test" and data.tests_on_validation:
                continue
            if data.label_map is not None:
                given = selected_labels(torch.from_numpy(given), data.label_map).numpy()
            rows = np.arange(len(given)) if data.is_multi_label else np.flatnonzero(given >= 0)
            if isinstance(images, ImageFiles):
                self.parts[split] = replace(images, names=images.names[rows])
                self.names += [escape_name(os.fsdecode(name)) for name in images.names[rows]]
            else:
                self.parts[split] = images if len(rows) == len(images) else images[rows]
                self.names += [f"{split}[{row}]" for row in rows]
            labels.append(given[rows])
            columns.append({name: values[rows] for name, values in own.items()})
        self.labels = np.concatenate(labels)  # int64 [N] or uint8 [N, K]
        # The source's other columns, such as the group of each image, [N]
        self.columns = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}

    def picture(self, place: int) -> Image.Image:
        """The image as a viewer shows it."""
        images, *others = self.parts.values()
        while place >= len(images):
            place, images = place - len(images), others.pop(0)
        return view(images, place)[1]


def view(images: Images, index: int) -> tuple[NDArray[Any], Image.Image, tuple[int, int], str]:
    """Decode an image at its full size: its pixels, its picture in colour, its stored size (width, height) and mode.

    A viewer shows the picture upright, in 8 bits and on white. The pixels are its own or, where a file holds numbers,
    levels `[C, H, W]`, from which `as_rgb` makes the picture.
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
