"""The image that a command is asked to look at: a file, or one of the data set."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from core.user_error import UserError
from datamodules.decoding.image_file import UnreadableImageError
from scripts.inference.trained_network import TrainedNetwork

IN_DATA = re.compile(r"(train|val|test)\[(\d+)\]")  # the name of an image without a file, such as `test[17]`


def shown_image(name: str, trained: TrainedNetwork, flags: Sequence[str] = ()) -> Tensor:
    """Read an image as the network takes it, `[1, C, H, W]`: a file, or one of the data as its pack names it."""
    place = IN_DATA.fullmatch(name)
    if place and not Path(name).exists():
        return _from_data(place[1], int(place[2]), trained, flags)
    if not Path(name).exists():
        with suppress(UserError):  # there are no such data: the file is what is missing
            within = trained.unread_data(flags).source_folder / name
            name = str(within) if within.is_file() else name
    try:
        return trained.read(name)[None]
    except UnreadableImageError as error:
        raise UserError(
            f"--image {name} cannot be read: {error}; give an image file, or one of the data such as 'test[17]'."
        ) from error


def _from_data(split: str, number: int, trained: TrainedNetwork, flags: Sequence[str]) -> Tensor:
    pack = trained.data(flags).pack
    assert pack is not None, "it is set up"
    places = pack.splits.get(split, range(0))
    if number >= len(places):
        sizes = ", ".join(f"{len(places):,} in {name}" for name, places in pack.splits.items())
        raise UserError(
            f"--image is {split}[{number}], but the source has {sizes}; give a number from 0 to less than that."
        )
    return pack[torch.tensor([places[number]])][0]
