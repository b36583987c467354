"""Draw the first training batch as the network sees it: augmented and mixed, but not normalised, with class names.

    python scripts/preview.py [--config FILE] [--data...] [--output FILE] [--images 32]

It is the first batch of scripts/train.py with the same flags on one CPU process. On another device, augmentations may
draw other random numbers; a run shows its own first batch in TensorBoard, under `preview/train`.
"""

from collections.abc import Sequence

from scripts.command.boundary import CommandParser, report_errors, whole_number
from scripts.command.output_file import picture_file, save_picture


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error ends in one message and exit status 2."""
    parser = CommandParser(prog="scripts/preview.py", description=__doc__)
    parser.add_argument("--output", type=picture_file, default="runs/preview.png", help="by default runs/preview.png")
    parser.add_argument("--images", type=whole_number, default=32, help="number of images to draw; by default 32")
    with report_errors():
        options, flags = parser.parse_known_args(args)
        import torch

        from callbacks.tensorboard.image_grid import batch_picture
        from scripts.command.data_flags import build_data

        data = build_data(flags)
        data.prepare_data()
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        data.seed_by(0, 0, 0, device=torch.device("cpu"))
        batch = data.transform(batch, training=True)
        picture = batch_picture(batch, data.preprocessing, data.class_names, options.images)
        save_picture(picture, options.output)
        print(options.output)


if __name__ == "__main__":
    main()
