"""A picture of the first training batch as the network sees it: augmented, mixed, un-normalised, with class names.

    python scripts/preview.py [--config FILE] [--data...] [--output preview.png] [--images 32]

It is the batch that scripts/train.py with the same flags begins with, on the CPU and in one process; elsewhere an
augmentation may draw other numbers. What a run really begins with is in its TensorBoard, under `preview/train`.
"""

import argparse
from collections.abc import Sequence

import torch

from callbacks.tensorboard.preview import batch_picture
from datamodules.base import ImageDataModule
from datamodules.batching.transform import Batch
from scripts.command.data_flags import run_on_data
from scripts.command.number_of_images import number_of_images
from scripts.command.picture_file import picture_file, save_picture


def first_batch(data: ImageDataModule) -> Batch:
    """Give the first training batch of a run.

    Args:
        data: A data module; it is prepared and set up.

    Returns:
        Images float32 `[B, C, H, W]`, augmented and normalised, and labels int64 `[B]` or, when mixed, float32
        `[B, K]`.

    Raises:
        UserError: If the data cannot be had.
    """
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    data.seed_by(0, 0, 0, device=torch.device("cpu"))
    return data.transform(batch, training=True)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=picture_file, default="preview.png", help="the picture; preview.png if absent")
    parser.add_argument("--images", type=number_of_images, default=32, help="how many to show, of those in the batch")

    def draw(options: argparse.Namespace, data: ImageDataModule) -> int:
        save_picture(batch_picture(first_batch(data), data, options.images), options.output)
        print(options.output)
        return 0

    run_on_data(parser, draw, args)


if __name__ == "__main__":
    main()
