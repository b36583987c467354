"""Look into a network, from its checkpoint alone.

    python scripts/visualize.py CHECKPOINT activations --image FILE [--layer NAME]
    python scripts/visualize.py CHECKPOINT filters [--layer NAME]
    python scripts/visualize.py CHECKPOINT gradcam --image FILE [--class NAME] [--layer NAME]
    python scripts/visualize.py CHECKPOINT saliency --image FILE [--class NAME]
    python scripts/visualize.py CHECKPOINT occlusion --image FILE [--class NAME]
    python scripts/visualize.py CHECKPOINT embedding [--split test] [--images 2000] [--data...]
    python scripts/visualize.py CHECKPOINT architecture

CHECKPOINT is a file or a run's folder. FILE is an image file, or an image of the data by the name that
scripts/evaluate.py shows, such as 'test[17]' or train/cat/7.jpg. Pictures are written to --output, by default to the
run's folder as the command's name and .png; --show also opens them.
"""

from core.user_error import UserError  # isort: skip - first, for a Ctrl-C during the other imports
import argparse
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from callbacks.tensorboard.image_grid import as_rgb, convolutions, filters_picture
from core.names import near_names
from datamodules.decoding.image_file import UnreadableImageError
from scripts.command.boundary import CHECKPOINT, TRUST, CommandParser, report_errors, whole_number
from scripts.command.expansion import expand
from scripts.command.output_file import picture_file, save_picture, show_picture
from scripts.inference.layers import grad_cam, last_maps, layer_outputs
from scripts.inference.predictions import probabilities_of
from scripts.inference.trained_network import TrainedNetwork
from scripts.report.table import show

IN_DATA = re.compile(r"(train|val|test)\[(\d+)\]")  # an image without a file, such as `test[17]`


def activations(trained: TrainedNetwork, options: argparse.Namespace) -> Image.Image | None:
    """Draw the output of a layer for an image; without --layer, list the layers."""
    from scripts.interpretation.layer_pictures import activations_picture

    layer = options.layer
    if layer is None:
        architecture(trained, options)
        return None
    image = trained.normalize(read_image(options.image, trained, options.flags))
    outputs = layer_outputs(trained.network, image)
    if layer not in outputs:
        raise UserError(f"--layer is {layer}, but no layer of that name gives a tensor; {near_names(layer, outputs)}")
    return activations_picture(outputs[layer][0], options.tiles)


def filters(trained: TrainedNetwork, options: argparse.Namespace) -> Image.Image:
    """Draw the filters of a convolution, by default the first."""
    network = trained.network
    names = convolutions(network)
    layer = options.layer or next(iter(names), "to show")
    if layer not in names:
        raise UserError(
            f"{type(network).__name__} has no convolution {layer}; "
            f"{near_names(layer, names, 'choose another layer or network.')}"
        )
    weight = network.get_submodule(layer).weight
    assert isinstance(weight, Tensor), "a convolution has a weight"
    return filters_picture(weight, options.tiles)


def attribution(trained: TrainedNetwork, options: argparse.Namespace) -> Image.Image:
    """Draw the evidence for a class in an image, by default for the predicted class."""
    from scripts.interpretation.layer_pictures import attribution_picture, occlusion, saliency

    network, class_names = trained.network, trained.class_names
    pixels = read_image(options.image, trained, options.flags)
    image = trained.normalize(pixels)
    with torch.no_grad():
        probabilities = probabilities_of(network(image).cpu().numpy(), trained.is_multi_label)[0]
    predicted = class_names[int(probabilities.argmax())]
    name = options.class_name or predicted
    if name not in class_names:
        raise UserError(f"--class is {name}, which is no class of {trained.path}; {near_names(name, class_names)}")
    number = class_names.index(name)
    label = torch.tensor([number], device=image.device)
    if options.command == "saliency":
        method, evidence = "size of the gradient", saliency(network, image, label)
    elif options.command == "occlusion":
        method = "probability lost when covered"
        evidence = occlusion(network, image, label, trained.is_multi_label)
    else:
        layer = options.layer or last_maps(network, image)
        if layer is None:
            raise UserError(
                f"{type(network).__name__} has no convolution that gives maps, which Grad-CAM needs; use saliency or "
                "occlusion."
            )
        method, evidence = f"Grad-CAM at {layer}", grad_cam(network, layer, image, label)
    title = f"{name} ({probabilities[number]:.1%}), predicted {predicted}"
    signed = options.command == "occlusion"
    return attribution_picture(as_rgb(pixels)[0], method, evidence[0], title, signed=signed)


def embedding(trained: TrainedNetwork, options: argparse.Namespace) -> Image.Image:
    """Draw the features of a split in a plane, and write them for TensorBoard's projector."""
    from scripts.interpretation.embedding import embedding_picture, features_of, t_sne, write_projector

    if trained.is_multi_label:
        raise UserError(f"An embedding has a colour for each class, but {trained.path} gives several; take gradcam.")
    data = trained.data(options.flags)
    assert data.pack is not None, "trained.data() sets it up"
    rows = data.splits[options.split]
    sample = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: options.images]
    images, labels = data.pack[rows[sample.sort().values]]
    layer, features = features_of(trained, images, data.batch_size)
    plane = t_sne(features.numpy())
    folder = trained.folder / "projector"
    write_projector(folder, features, labels, data.class_names, images)
    print(f"projector   {folder}")
    source = "logits" if layer is None else f"input of {layer}"
    title = f"t-SNE of {len(images):,} {options.split} images: {source}, {features.shape[1]} numbers each"
    return embedding_picture(plane, labels.numpy(), data.class_names, title)


def architecture(trained: TrainedNetwork, options: argparse.Namespace) -> None:
    """Print the layers with their output shapes, parameters and multiply-adds for one image."""
    from scripts.interpretation.architecture import layer_table, layers_of

    show(layer_table(layers_of(trained.network, trained.shape)))


def read_image(name: str, trained: TrainedNetwork, flags: Sequence[str] = ()) -> Tensor:
    """Read an image for the network, `[1, C, H, W]`: from a file, or by its name in the data."""
    if not Path(name).exists():
        if match := IN_DATA.fullmatch(name):
            pack = trained.data(flags).pack
            assert pack is not None, "trained.data() sets it up"
            rows, number = pack.splits.get(match[1], range(0)), int(match[2])
            if number >= len(rows):
                raise UserError(
                    f"--image is {name}, but the source has {len(rows):,} images in {match[1]}; give a smaller "
                    "number or another split."
                )
            return pack[torch.tensor([rows[number]])][0]
        with suppress(UserError):  # without the data, the error below names the missing file
            file = trained.unread_data(flags).source_folder / name
            name = str(file) if file.is_file() else name
    try:
        return trained.read(name)[None]
    except UnreadableImageError as error:
        raise UserError(
            f"--image {name} cannot be read: {error}; give an image file, or one of the data such as 'test[17]'."
        ) from error


COMMANDS: dict[str, Callable[[TrainedNetwork, argparse.Namespace], Image.Image | None]] = {
    "activations": activations,
    "filters": filters,
    "gradcam": attribution,
    "saliency": attribution,
    "occlusion": attribution,
    "embedding": embedding,
    "architecture": architecture,
}


def visualize(options: argparse.Namespace) -> None:
    """Run the command, and save and show its picture."""
    command, flags = options.command, options.flags
    needs_data = command == "embedding" or ("image" in options and not Path(options.image).exists())
    if flags and not needs_data:
        raise UserError(f"{command} knows no {flags[0]}; see scripts/visualize.py CHECKPOINT {command} --help.")
    trained = TrainedNetwork(options.checkpoint).in_float32()
    if command == "architecture":
        architecture(trained, options)
        return
    output = picture_file(options.output or str(trained.folder / f"{command}.png"))
    if picture := COMMANDS[command](trained, options):
        save_picture(picture, output)
        print(f"picture     {output}")
        if options.show:
            show_picture(picture, output)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error ends in one message and exit status 2."""
    parser = CommandParser(prog="scripts/visualize.py", description=__doc__, parents=[CHECKPOINT])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__, parents=[TRUST])
        if name in ("activations", "gradcam", "saliency", "occlusion"):
            help_ = "an image file, also relative to the data's folder, or an image of the data such as 'test[17]'"
            command.add_argument("--image", type=expand, required=True, metavar="FILE", help=help_)
        if name in ("activations", "filters", "gradcam"):
            command.add_argument("--layer", metavar="NAME", help="a layer, as `activations` without --layer lists them")
        if name in ("gradcam", "saliency", "occlusion"):
            command.add_argument("--class", dest="class_name", metavar="NAME", help="by default the predicted class")
        if name in ("activations", "filters"):
            command.add_argument("--tiles", type=whole_number, default=64, help="at most; by default 64")
        if name == "embedding":
            command.add_argument("--split", choices=("train", "val", "test"), default="test", help="by default test")
            command.add_argument("--images", type=whole_number, default=2000, help="at most; by default 2000")
        if name != "architecture":
            command.add_argument("--output", metavar="FILE", help=f"by default {name}.png in the run's folder")
            command.add_argument("--show", action="store_true", help="open the picture")
    with report_errors():
        options, flags = parser.parse_known_args(args)
        options.flags = flags
        visualize(options)


if __name__ == "__main__":
    main()
