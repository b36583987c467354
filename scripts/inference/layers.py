"""Activations of layers, and Grad-CAM.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns, normalised, float32; `K` classes; feature
maps of a layer are `[B, c, h, w]`. Networks must be in evaluation mode.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.names import near_names
from core.user_error import UserError


def layer_outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the output of each submodule by name, in execution order; only outputs that are one tensor."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if isinstance(output, Tensor):
            outputs.pop(name, None)  # a module that runs twice counts at its last call
            outputs[name] = output.detach().clone()  # the next layer may change it in place

    handles = [module.register_forward_hook(partial(keep, name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def last_maps(network: nn.Module, image: Tensor) -> str | None:
    """Name the default layer for Grad-CAM: the last convolution whose maps have more than one pixel."""
    modules = dict(network.named_modules())
    names = [
        name
        for name, output in layer_outputs(network, image).items()
        if isinstance(modules[name], nn.Conv2d) and output.shape[2:].numel() > 1
    ]
    return names[-1] if names else None


def grad_cam(network: nn.Module, layer: str, images: Tensor, classes: Tensor) -> Tensor:
    """Compute Grad-CAM: where in images `[B, C, H, W]` a layer sees evidence for their `classes`, int64 `[B]`.

    Returns float32 `[B, H, W]` in [0, 1]. The largest value of an image is 1, or 0 if there is no evidence.

    Source: R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks", 2017.
    """
    modules, outputs = dict(network.named_modules()), list[object]()
    if layer not in modules:
        raise UserError(
            f"--layer is {layer}, but {type(network).__name__} has no such layer; "
            f"{near_names(layer, list(filter(None, modules)), 'run `activations` without --layer to list them.')}"
        )

    def keep(module: nn.Module, inputs: tuple[object, ...], output: object) -> object:
        outputs.append(output)
        return output.clone() if isinstance(output, Tensor) else None  # the next layer may change it in place

    handle = modules[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = network(images.clone().requires_grad_().clone())
            score = logits.gather(1, classes[:, None]).sum()
    finally:
        handle.remove()
    output = outputs[-1]
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise UserError(
            f"--layer is {layer}, whose output has no maps; give Grad-CAM a convolution or another layer with maps."
        )
    (gradient,) = torch.autograd.grad(score, output)
    maps = (gradient.mean(dim=(2, 3), keepdim=True) * output).sum(dim=1, keepdim=True).relu()
    maps = F.interpolate(maps.detach().float(), images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return scaled(maps)


def scaled(maps: Tensor) -> Tensor:
    """Divide each map of `[B, H, W]` by its largest value."""
    largest = maps.amax(dim=(1, 2), keepdim=True)
    return maps / largest.clamp(min=torch.finfo(maps.dtype).tiny)
