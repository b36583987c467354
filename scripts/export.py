"""A trained network as one file for programs that know nothing of this one.

    python scripts/export.py CHECKPOINT [--format onnx | torch_export | safetensors] [--output FILE] [--overwrite]

CHECKPOINT is a file or a run's folder. An ONNX or torch.export model takes images uint8 [B, C, H, W] (uint16 of
a run on 16 bits), any number of them, normalises them itself and gives logits, float32 [B, K]; safetensors hold the
weights alone. Class names, image size, channels, resize mode, mean and std are in the file's metadata. Before the file
gets its name, it is run beside the checkpoint on photographs, both in float32 on the CPU and from image files on; if
they differ, there is no file and the exit status is 1. Where scripts/predict.py computes in another precision, its
difference is printed too.
"""

from core.durable_file import replacing  # isort: skip - first, for a Ctrl-C during the other imports
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding.pixel_format import PixelFormat
from scripts.command.boundary import CHECKPOINT, CommandParser, mistakes_in_one_sentence
from scripts.command.expansion import to_path
from scripts.command.output_file import check_output
from scripts.inference.export_formats import FORMATS, ExportedModel, ExportError, facts_of, reason_of
from scripts.inference.predictions import probabilities_of
from scripts.inference.trained_network import TrainedNetwork

BATCH_SIZES = (1, 2, 5, 8)  # images at a time in which the file is compared with the checkpoint, each image once

# Of two probabilities, in float32: another order of the same sums stays well below.
LARGEST_DIFFERENCE = 1e-4


@torch.no_grad()
def export(checkpoint: Path, name: str, output: Path | None, overwrite: bool) -> None:
    """Write a checkpoint's network in another format, if it predicts the same there."""
    format_ = FORMATS[name]
    format_.check_is_installed()
    trained = TrainedNetwork(checkpoint)
    output = output or trained.folder / f"{trained.path.stem}{format_.suffix}"
    check_output(output, overwrite)
    exact = trained.in_float32(torch.device("cpu"))
    several, facts = trained.is_multi_label, facts_of(trained)
    model = ExportedModel(exact.network, exact.normalizer, trained.test_time_augmentation, several)
    files, parts = photographs(sum(BATCH_SIZES), trained)
    images = torch.stack([*(pixels_by_facts(file, facts) for file in files), *parts])
    own_images = torch.stack([*map(trained.read, files), *parts])
    expected = exact.logits(own_images)
    with replacing(output) as part:
        format_.write(model, images[:2], part, facts)
        try:
            predict = format_.open(part, model)
            logits = torch.cat([predict(some) for some in torch.split(images, list(BATCH_SIZES))])
            difference = largest_difference(logits, expected, several)
        except Exception as error:
            raise ExportError(f"The exported model does not run: {reason_of(error)}; try another --format.") from error
        if not difference <= LARGEST_DIFFERENCE:  # NaN is not either
            raise ExportError(
                f"The exported {type(exact.network).__name__} is not what {trained.path} is: probabilities differ by "
                f"{difference:.1e} and not by at most {LARGEST_DIFFERENCE:.0e}; nothing was written."
            )
    sizes = ", ".join(map(str, BATCH_SIZES))
    print(
        f"compared  {len(images)} photographs in batches of {sizes}: probabilities differ by at most {difference:.1e}"
    )
    if trained.precision != "float32":
        rounding = largest_difference(logits, trained.logits(own_images), several)
        print(f"          in float32, and by at most {rounding:.1e} from scripts/predict.py in {trained.precision}")
    print(f"exported  {output} ({name}, {output.stat().st_size / 1e6:,.1f} MB)")


def photographs(number: int, trained: TrainedNetwork) -> tuple[list[Path], Tensor]:
    """Scikit-learn's two photographs, if the network sees images as viewers show them, and up to 16 parts of them.

    They are `number` in all, and the same each time. The parts are as the network takes images, `[N, C, H, W]`.
    """
    from sklearn.datasets import load_sample_images

    samples, (channels, *size), pixels = load_sample_images(), trained.shape, trained.pixel_format
    files = list(map(Path, samples.filenames)) if pixels.is_plain(channels) else []
    scenes = torch.from_numpy(np.stack(samples.images)).permute(0, 3, 1, 2).float()
    side = scenes.shape[2] // 2
    squares = scenes.unfold(2, side, side).unfold(3, side, (scenes.shape[3] - side) // 3)  # [2, 3, 2, 4, side, side]
    parts = squares.permute(2, 3, 0, 1, 4, 5).flatten(0, 2)[: number - len(files), torch.arange(channels) % 3]
    parts = torch.nn.functional.interpolate(parts, size, mode="bilinear", antialias=True).round().int()
    return files, (parts * (pixels.highest // 255)).to(torch.uint16 if pixels.highest > 255 else torch.uint8)


def pixels_by_facts(file: Path, facts: Mapping[str, str]) -> Tensor:
    """Read an image by an exported file's facts alone, uint8 `[C, H, W]`."""
    known = {name: json.loads(value) for name, value in facts.items()}
    channels, size, pixels = known["channels"], tuple(known["image_size"]), PixelFormat.of(known)
    return torch.from_numpy(pixels.read(file, channels, size, known["resize"]).copy())


def largest_difference(logits: Tensor, others: Tensor, multi_label: bool) -> float:
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
