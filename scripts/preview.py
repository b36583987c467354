"""A picture of the first training batch as the network sees it: augmented, mixed, un-normalised, with class names.

    python scripts/preview.py [--config FILE] [--data...] [--output preview.png] [--images 32]

It is the batch that scripts/train.py with the same flags begins with, on the CPU and in one process; elsewhere an
augmentation may draw other numbers. What a run really begins with is in its TensorBoard, under `preview/train`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image

from callbacks.preview import batch_picture
from datamodules.base import ImageDataModule
from datamodules.randomness import random_key, seed_generators
from datamodules.transform import Batch
from scripts.data_command import run_on_data


def first_batch(data: ImageDataModule) -> Batch:
    """Give the first training batch of a run.

    Args:
        data: A data module; it is prepared and set up.

    Returns:
        Images float32 `[B, C, H, W]`, augmented and normalised, and labels int64 `[B]` or, when mixed, float32
        `[B, K]`.

    Raises:
        MisconfigurationException: If the data cannot be had.
    """
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    seed_generators(random_key(data.seed, 0, 0, 0), torch.device("cpu"))
    return data.transform(batch, training=True)


def picture_file(name: str) -> Path:
    """The file of this name, if a picture can be written there; it is left as it is.

    Raises:
        MisconfigurationException: If it cannot.
    """
    path = Path(name)
    try:
        if path.exists():
            path.open("ab").close()
        with NamedTemporaryFile(dir=path.parent, suffix=path.suffix) as trial:
            Image.new("RGB", (1, 1)).save(trial.name)
    except (OSError, ValueError, KeyError) as error:
        if reason := getattr(error, "strerror", None):
            raise MisconfigurationException(
                f"The picture cannot be written to {path}: {reason}; choose another file with --output."
            ) from error
        raise MisconfigurationException(
            f"--output is {path}, but no colour picture can be written in a format of that name; "
            "give a name that ends in .png or .jpg."
        ) from error
    return path


def number_of_images(text: str) -> int:
    """The number that the text says, if it is positive.

    Raises:
        MisconfigurationException: If it is not.
    """
    if not text.isdecimal() or not int(text):
        raise MisconfigurationException(f"--images is {text}; give a whole number of at least 1.")
    return int(text)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=picture_file, default="preview.png", help="the picture; preview.png if absent")
    parser.add_argument("--images", type=number_of_images, default=32, help="how many to show, of those in the batch")

    def draw(options: argparse.Namespace, data: ImageDataModule) -> int:
        picture = batch_picture(first_batch(data), data, options.images)
        try:
            picture.save(options.output)
        except OSError as error:
            raise MisconfigurationException(
                f"The picture cannot be written to {options.output}: {error.strerror or error}; choose another file "
                "with --output."
            ) from error
        print(options.output)
        return 0

    run_on_data(parser, draw, args)


if __name__ == "__main__":
    main()
