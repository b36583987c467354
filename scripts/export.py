"""A trained network as one file for programs that know nothing of this one.

    python scripts/export.py CHECKPOINT [--format onnx | torch_export | safetensors] [--output FILE] [--overwrite]

CHECKPOINT is a file or a run's folder. An ONNX or torch.export model takes images uint8 [B, C, H, W], any number of
them, normalises them itself and gives logits, float32 [B, K]; safetensors hold the weights alone. Class names, image
size, channels, resize mode, mean and std are in the file's metadata. What was written is run beside the checkpoint,
both in float32 on the CPU and from image files on, before it gets its name; if they differ, there is no file and the
exit status is 1. Where scripts/predict.py computes in another precision, how far it differs is said too.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.durable_file import replacing
from core.user_error import UserError
from datamodules.decoding.image_file import open_image, pixels_of
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint
from scripts.command.boundary import TRUST, mistakes_in_one_sentence
from scripts.command.data_flags import build_data
from scripts.command.expansion import to_path
from scripts.command.output_file import refuse_output
from scripts.command.silence import silence_libraries
from scripts.inference.export_formats import FORMATS, ExportedModel, ExportError, Predict, facts_of, reason_of
from scripts.inference.image_classifier import load_classifier
from scripts.inference.shown_image import as_network_sees
from scripts.inference.trained import data_of, find_checkpoint, load_trained, run_of

BATCH_SIZES = (1, 2, 5, 8)  # images at a time in which the file is compared with the checkpoint, each image once

# Of two probabilities, in float32: what another order of the same sums makes of them stays well below.
LARGEST_DIFFERENCE = 1e-4

LARGEST_ROUNDING = 0.01  # of two probabilities, one of them in bfloat16, without a warning


def export(checkpoint: Path, name: str, output: Path | None, overwrite: bool) -> Path:
    """Write a checkpoint's network in another format, if it does the same there."""
    silence_libraries()
    format_ = FORMATS[name]
    checkpoint = find_checkpoint(checkpoint)
    output = output or (run_of(checkpoint) or checkpoint.parent) / f"{checkpoint.stem}{format_.suffix}"
    refuse_output(output, overwrite)
    classifier = load_trained(checkpoint, torch.device("cpu")).float()
    predictor = load_classifier(checkpoint)
    model, facts = ExportedModel(classifier), facts_of(classifier, read_checkpoint(checkpoint))
    pictures, whose = images_to_compare(checkpoint, classifier, sum(BATCH_SIZES))
    images = torch.stack([pixels_by_facts(picture, facts) for picture in pictures])
    parts = torch.split(torch.stack([predictor.pixels(picture) for picture in pictures]), list(BATCH_SIZES))
    with torch.no_grad():
        exact = torch.cat([classifier.predict_logits(as_network_sees(part, classifier)) for part in parts])
    try:
        with replacing(output) as part:
            format_.write(model, images[:2], part, facts)
            found = exported_logits(partial(format_.open, part, model), images, exact.shape[1])
            difference = largest_difference(found, exact)
            if not difference <= LARGEST_DIFFERENCE:  # which NaN is not either
                raise ExportError(
                    f"The exported {type(classifier.network).__name__} is not what {checkpoint} is: probabilities "
                    f"differ by {difference:.1e} and not by at most {LARGEST_DIFFERENCE:.0e}; nothing was written."
                )
    except OSError as error:
        raise ExportError(f"{output} could not be written: {error.strerror or error}; free space there.") from error
    sizes = ", ".join(map(str, BATCH_SIZES))
    print(f"compared  {len(images)} {whose} in batches of {sizes}: probabilities differ by at most {difference:.1e}")
    if predictor.precision != "float32":
        predicted = torch.cat([torch.from_numpy(predictor.logits(part)) for part in parts])
        rounding = largest_difference(found, predicted)
        print(f"          in float32, and by at most {rounding:.1e} from scripts/predict.py in {predictor.precision}")
        if rounding > LARGEST_ROUNDING:
            print(
                f"warning: the file computes in float32 and scripts/predict.py in {predictor.precision}, as the run "
                f"did: their probabilities differ by up to {rounding:.1e}",
                file=sys.stderr,
            )
    print(f"exported  {output} ({name}, {output.stat().st_size / 1e6:,.1f} MB)")
    return output


def images_to_compare(checkpoint: Path, classifier: Classifier, number: int) -> tuple[list[Path | Tensor], str]:
    """Real images: of a network's test split if that is at hand, else of two photographs.

    Args:
        checkpoint: Where the network comes from.
        classifier: The network.
        number: How many.

    Returns:
        Files, or uint8 `[C, H, W]` of images that are in no file of their own, and what to call them.
    """
    here = ["--data.download", "false"]
    with suppress(UserError):  # the data are not here, or have changed
        if build_data(["--ckpt_path", str(checkpoint), *here]).open_pack() is not None:
            data = data_of(checkpoint, classifier, here)
            assert data.pack is not None, "it is set up"
            test = data.splits["test"]
            places = test[torch.arange(number) * len(test) // number]
            if data.pack.names is None:
                return list(data.pack[places][0]), "test images"
            return [data.source_folder / data.pack.name(place) for place in places.tolist()], "test images"
    facts = classifier.preprocessing
    files = sample_photographs() if facts["channels"] in (1, 3) else []
    parts = photographs(number - len(files), facts["channels"], tuple(facts["image_size"]))
    return [*files, *parts], "parts of two photographs"


def sample_photographs() -> list[Path]:
    """The files of the photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    return [Path(name) for name in load_sample_images().filenames]


def pixels_by_facts(picture: Path | Tensor, facts: Mapping[str, str]) -> Tensor:
    """What a program that knows nothing but an exported file's facts makes of an image, uint8 `[C, H, W]`."""
    if isinstance(picture, Tensor):
        return picture
    channels, size, resize = (json.loads(facts[name]) for name in ("channels", "image_size", "resize"))
    with open_image(picture) as image:
        return torch.from_numpy(pixels_of(image, channels, tuple(size), resize).copy())


def photographs(number: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Parts of the photographs that come with scikit-learn, the same each time.

    Args:
        number: How many.
        channels: Grey for 1; otherwise red, green and blue in turn.
        size: Height and width.

    Returns:
        uint8 `[number, C, H, W]`.
    """
    from sklearn.datasets import load_sample_images

    scenes = [Image.fromarray(levels) for levels in load_sample_images().images]
    found = []
    for place in range(number):
        scene = scenes[place % 2]
        side = scene.height // 2
        left = (scene.width - side) * place // max(1, number - 1)
        top = side if place % 4 < 2 else 0
        part = scene.crop((left, top, left + side, top + side)).resize(size[::-1], Image.Resampling.BILINEAR)
        levels = np.asarray(part.convert("L" if channels == 1 else "RGB")).reshape(*size, -1)
        found.append(torch.from_numpy(levels[..., np.arange(channels) % levels.shape[-1]]).permute(2, 0, 1))
    return torch.stack(found)


@torch.no_grad()
def exported_logits(load: Callable[[], Predict], images: Tensor, num_classes: int) -> Tensor:
    """Run an exported network in batches of several sizes.

    Args:
        load: Gives the network.
        images: uint8 `[N, C, H, W]`.
        num_classes: Classes, K.

    Returns:
        float32 `[N, K]`.

    Raises:
        ExportError: If it cannot be loaded or run, or its logits are of another shape.
    """
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


def largest_difference(logits: Tensor, others: Tensor) -> float:
    """The largest difference of two probabilities; NaN if one is none."""
    return float((logits.double().softmax(dim=1) - others.double().softmax(dim=1)).abs().max())


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2, a failed export in one and 1."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[TRUST],
    )
    parser.add_argument("checkpoint", type=to_path, metavar="CHECKPOINT", help="a checkpoint, or the folder of a run")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="onnx if absent")
    parser.add_argument("--output", type=to_path, metavar="FILE", help="by default in the run's folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    with mistakes_in_one_sentence():
        options = parser.parse_args(args)
        export(options.checkpoint, options.format, options.output, options.overwrite)
    sys.exit(0)


if __name__ == "__main__":
    main()
