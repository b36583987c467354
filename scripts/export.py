"""Export a trained network to one file for other programs.

    python scripts/export.py CHECKPOINT [--format onnx | torch_export | safetensors] [--output FILE] [--overwrite]

CHECKPOINT is a file or a run's folder. An ONNX or torch.export model takes images, uint8 [B, C, H, W] for any B
(uint16 for a run on 16 bits), normalises them and returns logits, float32 [B, K]; a safetensors file has only the
weights. Class names, image size, channels, resize mode, mean and std are in the file's metadata. The export and the
checkpoint both predict photographs, read from image files, in float32 on the CPU; if their probabilities differ, no
file is written and the exit status is 1. If scripts/predict.py computes in another precision, the difference from it
is printed too.
"""

from core.durable_file import replacing  # isort: skip - first, for a Ctrl-C during the other imports
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding.pixel_format import PixelFormat
from scripts.command.boundary import CHECKPOINT, CommandParser, report_errors
from scripts.command.expansion import to_path
from scripts.command.output_file import check_output
from scripts.inference.export_formats import FORMATS, ExportedModel, ExportError, facts_of, reason_of
from scripts.inference.predictions import probabilities_of
from scripts.inference.trained_network import TrainedNetwork

BATCH_SIZES = (1, 2, 5, 8)  # of the comparison between the export and the checkpoint

# Largest difference of probabilities; float32 sums in another order differ by much less.
LARGEST_DIFFERENCE = 1e-4


@torch.no_grad()
def export(checkpoint: Path, format_name: str, output: Path | None, overwrite: bool) -> None:
    """Export a checkpoint; raises ExportError if the export predicts other probabilities."""
    format_ = FORMATS[format_name]
    format_.check_is_installed()
    trained = TrainedNetwork(checkpoint)
    output = output or trained.folder / f"{trained.path.stem}{format_.suffix}"
    check_output(output, overwrite)
    exact = trained.in_float32(torch.device("cpu"))
    multi_label, facts = trained.is_multi_label, facts_of(trained)
    model = ExportedModel(exact.network, exact.normalizer, trained.test_time_augmentation, multi_label)
    files, crops = photographs(sum(BATCH_SIZES), trained)
    images = torch.stack([*(pixels_by_facts(file, facts) for file in files), *crops])
    checkpoint_images = torch.stack([*map(trained.read, files), *crops])
    expected = exact.logits(checkpoint_images)
    with replacing(output) as part:
        format_.write(model, images[:2], part, facts)
        try:
            predict = format_.open(part, model)
            logits = torch.cat([predict(batch) for batch in torch.split(images, list(BATCH_SIZES))])
            difference = largest_difference(logits, expected, multi_label)
        except Exception as error:
            raise ExportError(f"The exported model does not run: {reason_of(error)}; try another --format.") from error
        if not difference <= LARGEST_DIFFERENCE:  # also true for NaN
            raise ExportError(
                f"The exported {type(exact.network).__name__} predicts other probabilities than {trained.path}: they "
                f"differ by {difference:.1e}, more than {LARGEST_DIFFERENCE:.0e}; nothing was written."
            )
    sizes = ", ".join(map(str, BATCH_SIZES))
    print(
        f"compared  {len(images)} photographs in batches of {sizes}: probabilities differ by at most {difference:.1e}"
    )
    if trained.precision != "float32":
        rounding = largest_difference(logits, trained.logits(checkpoint_images), multi_label)
        print(f"          in float32, and by at most {rounding:.1e} from scripts/predict.py in {trained.precision}")
    print(f"exported  {output} ({format_name}, {output.stat().st_size / 1e6:,.1f} MB)")


def photographs(number: int, trained: TrainedNetwork) -> tuple[list[Path], Tensor]:
    """Return scikit-learn's two photographs and crops of them, `number` images in all (at most 16 crops).

    The files are omitted if the network has a pixel format other than 8-bit grey or RGB. The crops are network input,
    uint8 or uint16 `[N, C, H, W]`.
    """
    from sklearn.datasets import load_sample_images

    samples, (channels, *size), pixels = load_sample_images(), trained.shape, trained.pixel_format
    files = list(map(Path, samples.filenames)) if pixels.is_plain(channels) else []
    scenes = torch.from_numpy(np.stack(samples.images)).permute(0, 3, 1, 2).float()
    side = scenes.shape[2] // 2
    squares = scenes.unfold(2, side, side).unfold(3, side, (scenes.shape[3] - side) // 3)  # [2, 3, 2, 4, side, side]
    crops = squares.permute(2, 3, 0, 1, 4, 5).flatten(0, 2)[: number - len(files), torch.arange(channels) % 3]
    crops = torch.nn.functional.interpolate(crops, size, mode="bilinear", antialias=True).round().int()
    return files, (crops * (pixels.highest // 255)).to(torch.uint16 if pixels.highest > 255 else torch.uint8)


def pixels_by_facts(file: Path, facts: Mapping[str, str]) -> Tensor:
    """Read an image as another program would, from the exported facts alone; uint8 `[C, H, W]`."""
    values = {name: json.loads(value) for name, value in facts.items()}
    size = tuple(values["image_size"])
    return torch.from_numpy(PixelFormat.of(values).read(file, values["channels"], size, values["resize"]).copy())


def largest_difference(logits: Tensor, expected: Tensor, multi_label: bool) -> float:
    """Return the largest difference of probabilities between two sets of logits; NaN if a logit is not finite."""
    probabilities = probabilities_of(logits.numpy(), multi_label)
    return float(np.abs(probabilities - probabilities_of(expected.numpy(), multi_label)).max())


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error prints one line and exits with status 2, a failed export with status 1."""
    parser = CommandParser(prog="scripts/export.py", description=__doc__, parents=[CHECKPOINT])
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="by default onnx")
    parser.add_argument("--output", type=to_path, metavar="FILE", help="by default in the run's folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    with report_errors():
        options = parser.parse_args(args)
        export(options.checkpoint, options.format, options.output, options.overwrite)


if __name__ == "__main__":
    main()
