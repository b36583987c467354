"""A trained network as one file for programs that know nothing of this one.

    python scripts/export.py CHECKPOINT [--format onnx | torch_export | safetensors] [--output FILE] [--overwrite]

CHECKPOINT is a file or a run's folder. An ONNX or torch.export model takes images uint8 [B, C, H, W] (uint16 of
a run on 16 bits), any number of them, normalises them itself and gives logits, float32 [B, K]; safetensors hold the
weights alone. Class names, image size, channels, resize mode, mean and std are in the file's metadata. Before the file
gets its name, it is run beside the checkpoint, both in float32 on the CPU and from image files on; if they differ,
there is no file and the exit status is 1. Where scripts/predict.py computes in another precision, its difference is
printed too.
"""

from core.user_error import UserError  # isort: skip - first, for a Ctrl-C during the other imports
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.durable_file import replacing
from datamodules.decoding.pixel_format import PixelFormat
from scripts.command.boundary import CHECKPOINT, CommandParser, mistakes_in_one_sentence
from scripts.command.expansion import to_path
from scripts.command.output_file import check_output
from scripts.inference.export_formats import FORMATS, ExportedModel, ExportError, Predict, facts_of, reason_of
from scripts.inference.image_classifier import ImageClassifier
from scripts.inference.predictions import probabilities_of
from scripts.inference.run_checkpoint import find_checkpoint, folder_of
from scripts.inference.trained_network import TrainedNetwork

BATCH_SIZES = (1, 2, 5, 8)  # images at a time in which the file is compared with the checkpoint, each image once

# Of two probabilities, in float32: another order of the same sums stays well below.
LARGEST_DIFFERENCE = 1e-4

LARGEST_ROUNDING = 0.01  # of two probabilities, one of them in bfloat16, without a warning


def export(checkpoint: Path, name: str, output: Path | None, overwrite: bool) -> Path:
    """Write a checkpoint's network in another format, if it predicts the same there."""
    format_ = FORMATS[name]
    format_.check_is_installed()
    checkpoint = find_checkpoint(checkpoint)
    output = output or folder_of(checkpoint) / f"{checkpoint.stem}{format_.suffix}"
    check_output(output, overwrite)
    trained = TrainedNetwork(checkpoint)
    exact = trained.in_float32(torch.device("cpu"))
    several, facts = trained.is_multi_label, facts_of(trained)
    model = ExportedModel(exact.network, exact.normalizer, trained.test_time_augmentation, several)
    pictures, whose = images_to_compare(trained, sum(BATCH_SIZES))
    images = torch.stack([pixels_by_facts(picture, facts) for picture in pictures])
    classifier = ImageClassifier(trained)
    parts = torch.split(torch.stack([classifier.pixels(picture) for picture in pictures]), list(BATCH_SIZES))
    expected = torch.cat([exact.logits(part) for part in parts])
    with replacing(output) as part:
        format_.write(model, images[:2], part, facts)
        logits = exported_logits(partial(format_.open, part, model), images, expected.shape[1])
        difference = largest_difference(logits, expected, several)
        if not difference <= LARGEST_DIFFERENCE:  # NaN is not either
            raise ExportError(
                f"The exported {type(exact.network).__name__} is not what {checkpoint} is: probabilities "
                f"differ by {difference:.1e} and not by at most {LARGEST_DIFFERENCE:.0e}; nothing was written."
            )
    sizes = ", ".join(map(str, BATCH_SIZES))
    print(f"compared  {len(images)} {whose} in batches of {sizes}: probabilities differ by at most {difference:.1e}")
    if trained.precision != "float32":
        rounding = largest_difference(logits, torch.cat([trained.logits(part) for part in parts]), several)
        print(f"          in float32, and by at most {rounding:.1e} from scripts/predict.py in {trained.precision}")
        if rounding > LARGEST_ROUNDING:
            print(
                f"warning: the file computes in float32 and scripts/predict.py in {trained.precision}, as the run "
                f"did: their probabilities differ by up to {rounding:.1e}",
                file=sys.stderr,
            )
    print(f"exported  {output} ({name}, {output.stat().st_size / 1e6:,.1f} MB)")
    return output


def images_to_compare(trained: TrainedNetwork, number: int) -> tuple[list[Path | Tensor], str]:
    """Images of the run's test split if that is packed here, else of two photographs; and their name."""
    with suppress(UserError):  # the data are not here, or have changed
        flags = ["--data.download", "false"]
        if trained.unread_data(flags).open_pack() is not None:
            data = trained.data(flags)
            assert data.pack is not None, "it is set up"
            test = data.splits["test"]
            places = test[torch.arange(number) * len(test) // number]
            if data.pack.names is None:
                return list(data.pack[places][0]), "test images"
            return [data.source_folder / data.pack.name(place) for place in places.tolist()], "test images"
    from sklearn.datasets import load_sample_images

    channels, height, width = trained.shape
    is_plain = trained.pixel_format.is_plain(channels)
    files = list(map(Path, load_sample_images().filenames)) if is_plain else []
    parts = photographs(number - len(files), channels, (height, width))
    if trained.pixel_format.is_deep:
        parts = (parts.int() * 257).to(torch.uint16)
    return [*files, *parts], "parts of two photographs"


def pixels_by_facts(picture: Path | Tensor, facts: Mapping[str, str]) -> Tensor:
    """Read an image by an exported file's facts alone, uint8 or uint16 `[C, H, W]`."""
    if isinstance(picture, Tensor):
        return picture
    known = {name: json.loads(value) for name, value in facts.items()}
    channels, size, pixels = known["channels"], tuple(known["image_size"]), PixelFormat.of(known)
    return torch.from_numpy(pixels.read(picture, channels, size, known["resize"]).copy())


def photographs(number: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Up to 16 parts of scikit-learn's two photographs, the same each time, uint8 `[number, C, H, W]`."""
    from sklearn.datasets import load_sample_images

    scenes = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2).float()
    side = scenes.shape[2] // 2
    squares = scenes.unfold(2, side, side).unfold(3, side, (scenes.shape[3] - side) // 3)  # [2, 3, 2, 4, side, side]
    parts = squares.permute(2, 3, 0, 1, 4, 5).flatten(0, 2)[:number, torch.arange(channels) % 3]
    return torch.nn.functional.interpolate(parts, size, mode="bilinear", antialias=True).round().to(torch.uint8)


@torch.no_grad()
def exported_logits(load: Callable[[], Predict], images: Tensor, num_classes: int) -> Tensor:
    """Load an exported network and run it on images uint8 or uint16 `[N, C, H, W]` in batches of several sizes."""
    parts = []
    try:
        predict = load()
    except Exception as error:
        raise ExportError(f"The exported model cannot be loaded: {reason_of(error)}.") from error
    for some in torch.split(images, list(BATCH_SIZES)):
        try:
            parts.append(predict(some))
        except Exception as error:
            raise ExportError(f"The exported model fails on a batch of {len(some)}: {reason_of(error)}.") from error
        if parts[-1].shape != (len(some), num_classes):
            raise ExportError(
                f"The exported model gives {list(parts[-1].shape)} in place of {[len(some), num_classes]}."
            )
    return torch.cat(parts)


def largest_difference(logits: Tensor, others: Tensor, multi_label: bool = False) -> float:
    """The largest difference of two probabilities; NaN if one is none."""
    first, second = (probabilities_of(each.numpy(), multi_label) for each in (logits, others))
    return float(np.abs(first - second).max())


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2, a failed export in one and 1."""
    parser = CommandParser(prog="scripts/export.py", description=__doc__, parents=[CHECKPOINT])
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="onnx if absent")
    parser.add_argument("--output", type=to_path, metavar="FILE", help="by default in the run's folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    with mistakes_in_one_sentence():
        options = parser.parse_args(args)
        export(options.checkpoint, options.format, options.output, options.overwrite)


if __name__ == "__main__":
    main()
