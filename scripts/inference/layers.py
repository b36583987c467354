"""What each layer of a network gives for an image, and where in the image it looked.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes; maps of a layer are
`[B, c, h, w]`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from captum.attr import LayerGradCam, Occlusion, Saliency
from torch import Tensor, nn
from torch.nn import functional as F

from core.near_names import near_names
from core.user_error import UserError

OCCLUDED = 8  # the part of each side that is covered at a time, as 1 of so many


def layer_outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Run a network and keep what each of its layers gives.

    Args:
        network: In evaluation mode; it is left as it is.
        images: Normalised, float32 `[B, C, H, W]`.

    Returns:
        For the name of each submodule that gives one tensor, in the order in which they did, that tensor. Of a layer
        that is applied several times, the last.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if isinstance(output, Tensor):
                outputs.pop(name, None)
                outputs[name] = output.detach().clone()  # the next layer may work in place

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """The submodule of a name."""
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if name and name in modules:
        return modules[name]
    known = [known for known in modules if known]
    raise UserError(
        f"--layer is {name}, but {type(network).__name__} has no such layer; "
        f"{near_names(name, known, 'run `activations` without --layer to list them.')}"
    )


def last_maps(network: nn.Module, image: Tensor) -> str | None:
    """The name of the last convolution that gives maps of more than one pixel, which Grad-CAM is best shown for.

    Args:
        network: In evaluation mode.
        image: Normalised, float32 `[1, C, H, W]`.

    Returns:
        None if there is no such layer.
    """
    modules = dict(network.named_modules())
    names = [
        name
        for name, output in layer_outputs(network, image).items()
        if isinstance(modules[name], nn.Conv2d) and output.shape[2:].numel() > 1
    ]
    return names[-1] if names else None


def grad_cam(network: nn.Module, layer: str, images: Tensor, classes: Tensor) -> Tensor:
    """Where a layer saw what speaks for a class.

    Source: R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks", 2017; by captum.

    Args:
        network: In evaluation mode.
        layer: The name of a submodule that gives maps `[B, c, h, w]`.
        images: Normalised, float32 `[B, C, H, W]`.
        classes: For each image, the class asked about, int64 `[B]`.

    Returns:
        float32 `[B, H, W]` in [0, 1], the largest value of each image being 1, unless nothing speaks for the class.

    Raises:
        UserError: If the layer gives no maps, or is no part of the way from images to logits.
    """
    module = find_layer(network, layer)
    output = layer_outputs(network, images[:1]).get(layer)
    if output is None or output.ndim != 4:
        shape = "no single tensor" if output is None else "x".join(map(str, output.shape[1:]))
        raise UserError(
            f"--layer is {layer}, which gives {shape}, not maps; Grad-CAM needs a convolution or another layer of maps."
        )
    with _out_of_place(network):
        maps = LayerGradCam(network, module).attribute(images, target=classes, relu_attributions=True)
    maps = F.interpolate(maps.detach().float(), images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return _scaled(maps)


def saliency(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Which pixels change the logit of a class most: the size of its gradient, the largest over channels.

    Source: K. Simonyan, A. Vedaldi and A. Zisserman, "Deep Inside Convolutional Networks", 2013; by captum.

    Args:
        network: In evaluation mode.
        images: Normalised, float32 `[B, C, H, W]`.
        classes: int64 `[B]`.

    Returns:
        float32 `[B, H, W]` in [0, 1].
    """
    with _out_of_place(network):
        gradient = Saliency(network).attribute(images.clone().requires_grad_(), target=classes)
    return _scaled(gradient.detach().float().amax(dim=1))


def occlusion(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """What covering a square of the image takes from the probability of a class; negative where it adds to it.

    Source: M. D. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks", 2013; by captum.

    Args:
        network: In evaluation mode.
        images: Normalised, float32 `[B, C, H, W]`; what covers is 0, the training images' mean.
        classes: int64 `[B]`.

    Returns:
        float32 `[B, H, W]`, the mean difference of the probability over the squares that covered the pixel.
    """
    channels, height, width = images.shape[1:]
    rows, columns = max(1, height // OCCLUDED), max(1, width // OCCLUDED)
    steps = (channels, max(1, rows // 2), max(1, columns // 2))
    with torch.no_grad():
        lost = Occlusion(lambda batch: network(batch).float().softmax(dim=1)).attribute(
            images, target=classes, sliding_window_shapes=(channels, rows, columns), strides=steps
        )
    found: Tensor = lost.detach().float().mean(dim=1)
    return found


def _scaled(maps: Tensor) -> Tensor:
    """Divide each of maps `[B, H, W]` by its largest value."""
    largest = maps.amax(dim=(1, 2), keepdim=True)
    return maps / largest.clamp(min=torch.finfo(maps.dtype).tiny)


@contextmanager
def _out_of_place(network: nn.Module) -> Iterator[None]:
    """Let no layer write over what the layer before gave, whose gradient is asked for."""
    attribute = "inplace"
    changed = [module for module in network.modules() if getattr(module, attribute, False) is True]
    for module in changed:
        setattr(module, attribute, False)
    try:
        yield
    finally:
        for module in changed:
            setattr(module, attribute, True)
