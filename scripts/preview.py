"""Draw the first training batch as the network sees it: augmented, mixed, un-normalised, with class names.

    python scripts/preview.py [--config FILE] [--data...] [--output FILE] [--images 32]

It is the batch that scripts/train.py with the same flags begins with, on the CPU and in one process; on another device
an augmentation may draw other numbers. A run's real first batch is in its TensorBoard, under `preview/train`.
"""

from collections.abc import Sequence

from scripts.command.boundary import CommandParser, mistakes_in_one_sentence, whole_number
from scripts.command.output_file import picture_file, save_picture


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/preview.py", description=__doc__)
    parser.add_argument("--output", type=picture_file, default="runs/preview.png", help="runs/preview.png if absent")
    parser.add_argument("--images", type=whole_number, default=32, help="how many of the batch to show")
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
        import torch

        from callbacks.tensorboard.preview import batch_picture
        from scripts.command.data_flags import build_data

        data = build_data(flags)
        data.prepare_data()
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        data.seed_by(0, 0, 0, device=torch.device("cpu"))
        save_picture(batch_picture(data.transform(batch, training=True), data, options.images), options.output)
        print(options.output)


if __name__ == "__main__":
    main()
