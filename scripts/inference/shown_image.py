"""The image that a command is asked to look at: a file, or one of the data set."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.user_error import UserError
from datamodules.batching.transform import BatchTransform
from datamodules.decoding.image_file import UnreadableImageError, read_image
from models.classifier import Classifier
from scripts.inference.trained import data_of

IN_DATA = re.compile(r"(train|val|test)\[(\d+)\]")  # how images without a file are named, such as `test[17]`


def shown_image(name: str, checkpoint: Path, classifier: Classifier, flags: Sequence[str] = ()) -> Tensor:
    """Read an image as the network was shown its like.

    Args:
        name: A file, or a place in the source's data such as `test[17]`, as `scripts/evaluate.py` names images.
        checkpoint: Where the network comes from.
        classifier: The network.
        flags: Those of `scripts/train.py` about data; only looked at for a place in them.

    Returns:
        uint8 `[1, C, H, W]`.

    Raises:
        UserError: If there is no such image, or it cannot be read.
    """
    place = IN_DATA.fullmatch(name)
    if place and not Path(name).exists():
        return _from_data(place[1], int(place[2]), checkpoint, classifier, flags)
    preprocessing = classifier.preprocessing
    channels, (height, width) = preprocessing["channels"], preprocessing["image_size"]
    if channels not in (1, 3):
        raise UserError(
            f"{checkpoint} takes images of {channels} channels, a file has 1 or 3; name one of the data, such as "
            "--image 'test[17]'."
        )
    try:
        pixels = read_image(name, channels, (height, width), preprocessing.get("resize", "crop"))
    except UnreadableImageError as error:
        raise UserError(
            f"--image {name} cannot be read: {error}; give an image file, or one of the data such as 'test[17]'."
        ) from error
    return torch.from_numpy(pixels.copy())[None]


def _from_data(split: str, number: int, checkpoint: Path, classifier: Classifier, flags: Sequence[str]) -> Tensor:
    pack = data_of(checkpoint, classifier, flags).pack
    assert pack is not None, "it is set up"
    places = pack.splits.get(split, range(0))
    if number >= len(places):
        sizes = ", ".join(f"{len(places):,} in {name}" for name, places in pack.splits.items())
        raise UserError(
            f"--image is {split}[{number}], but the source has {sizes}; give a number from 0 to less than that."
        )
    return pack[torch.tensor([places[number]])][0]


def as_network_sees(images: Tensor, classifier: Classifier) -> Tensor:
    """Normalise images as in training.

    Args:
        images: uint8 `[B, C, H, W]`.
        classifier: The network.

    Returns:
        float32 `[B, C, H, W]` on the network's device, laid out as it prefers.
    """
    facts = classifier.preprocessing
    transform = BatchTransform(facts["mean"], facts["std"], (), (), classifier.num_classes)
    normalised, _ = transform((images.to(classifier.device), torch.zeros(len(images))), training=False)
    return classifier.to_memory_format(normalised)
