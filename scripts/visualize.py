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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from callbacks.tensorboard.filters_picture import CONVOLUTIONS, convolutions, filters_picture
from callbacks.tensorboard.image_grid import as_rgb
from core.names import near_names
from scripts.command.boundary import TRUST, CommandParser, mistakes_in_one_sentence, whole_number
from scripts.command.expansion import expand, to_path
from scripts.command.output_file import picture_file, save_picture, show_picture
from scripts.inference.layers import find_layer, grad_cam, last_maps, layer_outputs
from scripts.inference.predictions import probabilities_of
from scripts.inference.shown_image import shown_image
from scripts.inference.trained_network import TrainedNetwork
from scripts.interpretation.attribution import occlusion, saliency
from scripts.interpretation.layer_pictures import activations_picture, attribution_picture
from scripts.report.table import show

MOST_TILES = 64  # maps or filters in a picture unless asked for otherwise

MOST_IMAGES = 2000  # images whose features are laid out unless asked for otherwise; t-SNE takes seconds for them


@dataclass(frozen=True)
class Subject:
    """The network that is looked into, in float32, and the request."""

    trained: TrainedNetwork
    options: argparse.Namespace
    flags: Sequence[str]  # about data

    @property
    def network(self) -> nn.Module:
        """The network."""
        return self.trained.network

    def image(self) -> tuple[Tensor, Tensor]:
        """The image asked for, uint8 `[1, C, H, W]`, and as the network takes it."""
        pixels = shown_image(self.options.image, self.trained, self.flags)
        return pixels, self.trained.normalize(pixels)

    def class_asked_for(self, image: Tensor) -> tuple[Tensor, str]:
        """The class asked about, int64 `[1]`, by default that predicted, and its name with its probability."""
        names = self.trained.class_names
        with torch.no_grad():
            probabilities = probabilities_of(self.network(image).cpu().numpy(), self.trained.is_multi_label)[0]
        label = predicted = int(probabilities.argmax())
        title = f"predicted {names[label]} ({float(probabilities[label]):.1%})"
        if (asked := self.options.class_name) is not None:
            if asked not in names:
                raise UserError(
                    f"--class is {asked}, which {self.trained.path} does not know; {near_names(asked, names)}"
                )
            label = names.index(asked)
        if label != predicted:
            title = f"what speaks for {names[label]} ({float(probabilities[label]):.1%}), {title}"
        return torch.tensor([label], device=image.device), title


def activations(subject: Subject) -> Image.Image | None:
    """The output of a layer for the image; without a layer, a list of the layers."""
    _, image = subject.image()
    outputs = layer_outputs(subject.network, image)
    layer = subject.options.layer
    if layer is None:
        modules = dict(subject.network.named_modules())
        width = max(map(len, outputs))
        for name, output in outputs.items():
            shape = "x".join(map(str, output.shape[1:]))
            print(f"{name:{width}}  {type(modules[name]).__name__:20}  {shape}")
        return None
    find_layer(subject.network, layer)
    if layer not in outputs:
        raise UserError(f"--layer is {layer}, which gives no single tensor; look at a layer within it.")
    return activations_picture(outputs[layer][0], subject.options.tiles)


def filters(subject: Subject) -> Image.Image:
    """The filters of a convolution, by default the first."""
    network, layer = subject.network, subject.options.layer
    known = convolutions(network)
    if not known:
        raise UserError(f"{type(network).__name__} has no convolution, so no filters to show; choose another network.")
    module = find_layer(network, layer or known[0])
    if not isinstance(module, CONVOLUTIONS):
        raise UserError(
            f"--layer is {layer}, a {type(module).__name__}, which has no filters; {near_names(layer, known)}"
        )
    return filters_picture(module.weight, subject.options.tiles)


def gradcam(subject: Subject) -> Image.Image:
    """Where a layer, by default the last convolution, saw evidence for a class (Grad-CAM)."""
    network, (pixels, image) = subject.network, subject.image()
    layer = subject.options.layer or last_maps(network, image)
    if layer is None:
        raise UserError(
            f"{type(network).__name__} has no convolution that gives maps, which Grad-CAM needs; use saliency or "
            "occlusion."
        )
    label, title = subject.class_asked_for(image)
    seen = grad_cam(network, layer, image, label)[0]
    name = f"Grad-CAM at {layer}" if seen.any() else f"Grad-CAM at {layer}: nothing speaks for it"
    return attribution_picture(as_rgb(pixels)[0], name, seen, title)


def saliency_map(subject: Subject) -> Image.Image:
    """The pixels that change the logit of a class most."""
    pixels, image = subject.image()
    label, title = subject.class_asked_for(image)
    seen = saliency(subject.network, image, label)[0]
    return attribution_picture(as_rgb(pixels)[0], "size of the gradient", seen, title)


def occlusion_map(subject: Subject) -> Image.Image:
    """The probability of a class that is lost when a part of the image is covered."""
    pixels, image = subject.image()
    label, title = subject.class_asked_for(image)
    lost = occlusion(subject.network, image, label, subject.trained.is_multi_label)[0]
    return attribution_picture(as_rgb(pixels)[0], "probability lost when covered", lost, title, signed=True)


def embedding(subject: Subject) -> Image.Image:
    """The features of a split in a plane, and in TensorBoard's projector."""
    from scripts.interpretation.embedding import embedding_picture, features_of, t_sne, write_projector

    trained, split = subject.trained, subject.options.split
    if trained.is_multi_label:
        raise UserError(f"An embedding has a colour for each class, but {trained.path} gives several; take gradcam.")
    data = trained.data(subject.flags)
    assert data.pack is not None, "it is set up"
    places = data.splits[split]
    if len(places) > subject.options.images:
        chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[: subject.options.images]
        places = places[chosen.sort().values]
    images, classes = data.pack[places]
    layer, features = features_of(trained, images, data.batch_size)
    try:
        plane = t_sne(features.numpy())
    except ValueError as error:
        raise UserError(f"The split {split} cannot be laid out: {error}; take another.") from error
    folder = trained.folder / "projector"
    write_projector(folder, features, classes, data.class_names, images)
    what = "logits" if layer is None else f"input of {layer}"
    print(f"projector   {folder}")
    title = f"t-SNE of {len(places):,} {split} images: {what}, {features.shape[1]} numbers each"
    return embedding_picture(plane, classes.numpy(), data.class_names, title)


def architecture(subject: Subject) -> None:
    """Print the layers with their shapes, parameters and multiply-adds for an image."""
    from scripts.interpretation.architecture import layer_table, layers_of

    show(layer_table(layers_of(subject.network, subject.trained.shape)))


COMMANDS: dict[str, Callable[[Subject], Image.Image | None]] = {
    "activations": activations,
    "filters": filters,
    "gradcam": gradcam,
    "saliency": saliency_map,
    "occlusion": occlusion_map,
    "embedding": embedding,
    "architecture": architecture,
}


def visualize(options: argparse.Namespace, flags: Sequence[str]) -> None:
    """Run the command, and write and show its picture."""
    if flags and options.command != "embedding" and Path(getattr(options, "image", "")).exists():
        raise UserError(
            f"{options.command} knows no {flags[0]}; see scripts/visualize.py CHECKPOINT {options.command} --help."
        )
    trained, output = TrainedNetwork(options.checkpoint).in_float32(), None
    if options.command != "architecture":
        output = picture_file(options.output or str(trained.folder / f"{options.command}.png"))
    drawn = COMMANDS[options.command](Subject(trained, options, flags))
    if drawn is None or output is None:
        return
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
        visualize(*parser.parse_known_args(args))


if __name__ == "__main__":
    main()
