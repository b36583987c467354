"""Look into a network, from its checkpoint alone.

    python scripts/visualize.py CHECKPOINT activations --image FILE [--layer NAME]
    python scripts/visualize.py CHECKPOINT filters [--layer NAME]
    python scripts/visualize.py CHECKPOINT gradcam --image FILE [--class NAME] [--layer NAME]
    python scripts/visualize.py CHECKPOINT saliency --image FILE [--class NAME]
    python scripts/visualize.py CHECKPOINT occlusion --image FILE [--class NAME]
    python scripts/visualize.py CHECKPOINT embedding [--split test] [--images 2000] [--data...]
    python scripts/visualize.py CHECKPOINT architecture

CHECKPOINT is a file or a run's folder. FILE is an image file, or one of the data as scripts/evaluate.py
names it, such as 'test[17]' or train/cat/7.jpg. Pictures go to --output, by default the command's name and .png in the
run's folder; --show opens them as well.
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

from callbacks.tensorboard.filters import convolutions
from callbacks.tensorboard.image_grid import as_rgb, filters_picture
from core.names import near_names
from datamodules.decoding.image_file import UnreadableImageError
from scripts.command.boundary import TRUST, CommandParser, mistakes_in_one_sentence, whole_number
from scripts.command.expansion import expand, to_path
from scripts.command.output_file import picture_file, save_picture, show_picture
from scripts.inference.layers import grad_cam, last_maps, layer_outputs
from scripts.inference.predictions import probabilities_of
from scripts.inference.trained_network import TrainedNetwork
from scripts.report.table import show

MOST_TILES = 64  # maps or filters in a picture unless asked for otherwise

MOST_IMAGES = 2000  # images whose features are laid out unless asked for otherwise; t-SNE takes seconds for them

IN_DATA = re.compile(r"(train|val|test)\[(\d+)\]")  # the name of an image without a file, such as `test[17]`


def activations(trained: TrainedNetwork, options: argparse.Namespace) -> Image.Image | None:
    """The output of a layer for the image; without a layer, a list of the layers."""
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
    """The filters of a convolution, by default the first."""
    network, known = trained.network, convolutions(trained.network)
    layer = options.layer or next(iter(known), "to show")
    if layer not in known:
        raise UserError(
            f"{type(network).__name__} has no convolution {layer}; "
            f"{near_names(layer, known, 'choose another layer or network.')}"
        )
    weight = network.get_submodule(layer).weight
    assert isinstance(weight, Tensor), "it is a convolution"
    return filters_picture(weight, options.tiles)


def attribution(trained: TrainedNetwork, options: argparse.Namespace) -> Image.Image:
    """The parts of the image that speak for a class, by default that predicted."""
    from scripts.interpretation.layer_pictures import attribution_picture, occlusion, saliency

    network, names = trained.network, trained.class_names
    pixels = read_image(options.image, trained, options.flags)
    image = trained.normalize(pixels)
    with torch.no_grad():
        probabilities = probabilities_of(network(image).cpu().numpy(), trained.is_multi_label)[0]
    predicted = names[int(probabilities.argmax())]
    if (asked := options.class_name or predicted) not in names:
        raise UserError(f"--class is {asked}, which {trained.path} does not know; {near_names(asked, names)}")
    title = f"{asked} ({float(probabilities[names.index(asked)]):.1%}), predicted {predicted}"
    label = torch.tensor([names.index(asked)], device=image.device)
    if options.command == "gradcam":
        layer = options.layer or last_maps(network, image)
        if layer is None:
            raise UserError(
                f"{type(network).__name__} has no convolution that gives maps, which Grad-CAM needs; use saliency or "
                "occlusion."
            )
        what, seen = f"Grad-CAM at {layer}", grad_cam(network, layer, image, label)
    elif options.command == "saliency":
        what, seen = "size of the gradient", saliency(network, image, label)
    else:
        what, seen = "probability lost when covered", occlusion(network, image, label, trained.is_multi_label)
    signed = options.command == "occlusion"
    return attribution_picture(as_rgb(pixels)[0], what, seen[0], title, signed=signed)


def embedding(trained: TrainedNetwork, options: argparse.Namespace) -> Image.Image:
    """The features of a split in a plane, and in TensorBoard's projector."""
    from scripts.interpretation.embedding import embedding_picture, features_of, t_sne, write_projector

    split = options.split
    if trained.is_multi_label:
        raise UserError(f"An embedding has a colour for each class, but {trained.path} gives several; take gradcam.")
    data = trained.data(options.flags)
    assert data.pack is not None, "it is set up"
    places = data.splits[split]
    chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[: options.images]
    images, classes = data.pack[places[chosen.sort().values]]
    layer, features = features_of(trained, images, data.batch_size)
    plane = t_sne(features.numpy())
    folder = trained.folder / "projector"
    write_projector(folder, features, classes, data.class_names, images)
    print(f"projector   {folder}")
    what = "logits" if layer is None else f"input of {layer}"
    title = f"t-SNE of {len(images):,} {split} images: {what}, {features.shape[1]} numbers each"
    return embedding_picture(plane, classes.numpy(), data.class_names, title)


def architecture(trained: TrainedNetwork, options: argparse.Namespace) -> None:
    """Print the layers with their shapes, parameters and multiply-adds for an image."""
    from scripts.interpretation.architecture import layer_table, layers_of

    show(layer_table(layers_of(trained.network, trained.shape)))


def read_image(name: str, trained: TrainedNetwork, flags: Sequence[str] = ()) -> Tensor:
    """Read an image as the network takes it, `[1, C, H, W]`: a file, or one of the data as its pack names it."""
    if not Path(name).exists():
        if place := IN_DATA.fullmatch(name):
            pack = trained.data(flags).pack
            assert pack is not None, "it is set up"
            places, number = pack.splits.get(place[1], range(0)), int(place[2])
            if number >= len(places):
                raise UserError(
                    f"--image is {name}, but the source has {len(places):,} images in {place[1]}; give a smaller "
                    "number or another split."
                )
            return pack[torch.tensor([places[number]])][0]
        with suppress(UserError):  # there are no such data: the file is what is missing
            within = trained.unread_data(flags).source_folder / name
            name = str(within) if within.is_file() else name
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
    """Run the command, and write and show its picture."""
    command, flags = options.command, options.flags
    if flags and command != "embedding" and Path(getattr(options, "image", "")).exists():
        raise UserError(f"{command} knows no {flags[0]}; see scripts/visualize.py CHECKPOINT {command} --help.")
    trained, output = TrainedNetwork(options.checkpoint).in_float32(), None
    if command != "architecture":
        output = picture_file(options.output or str(trained.folder / f"{command}.png"))
    if (drawn := COMMANDS[command](trained, options)) and output:
        save_picture(drawn, output)
        print(f"picture     {output}")
        if options.show:
            show_picture(drawn, output)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/visualize.py", description=__doc__)
    parser.add_argument("checkpoint", type=to_path, metavar="CHECKPOINT", help="a checkpoint, or the folder of a run")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        described = command.__doc__
        each = commands.add_parser(name, help=described, description=described, parents=[TRUST])
        if name in ("activations", "gradcam", "saliency", "occlusion"):
            help_ = "a file, also within the data's folder, or such as 'test[17]'"
            each.add_argument("--image", type=expand, required=True, metavar="FILE", help=help_)
        if name in ("activations", "filters", "gradcam"):
            each.add_argument("--layer", metavar="NAME", help="as `activations` without --layer lists them")
        if name in ("gradcam", "saliency", "occlusion"):
            each.add_argument("--class", dest="class_name", metavar="NAME", help="by default that predicted")
        if name in ("activations", "filters"):
            each.add_argument("--tiles", type=whole_number, default=MOST_TILES, help="how many; 64 if absent")
        if name == "embedding":
            each.add_argument("--split", choices=("train", "val", "test"), default="test", help="test if absent")
            each.add_argument("--images", type=whole_number, default=MOST_IMAGES, help="at most; 2000 if absent")
        if name != "architecture":
            each.add_argument("--output", metavar="FILE", help=f"by default {name}.png in the run's folder")
            each.add_argument("--show", action="store_true", help="open the picture")
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
        options.flags = flags  # about data
        visualize(options)


if __name__ == "__main__":
    main()
