"""Set a first convolution that decorrelates neighbouring pixels."""

from typing import ClassVar, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError
from datamodules.base import ImageDataModule
from models.classifier import Classifier

# Added to the variance along each direction, so that a constant direction is not amplified (Jordan, 2024).
VARIANCE_FLOOR = 5e-4
IMAGES_AT_A_TIME = 500  # images whose patches are in memory at once


class Whitening(Callback):
    """Sets a convolution to whiten the patches of the training images, before the first step (Page, 2019).

    Half of the kernels are eigenvectors of the patches' covariance, each divided by the standard deviation along it.
    The other half are their negatives, so that a following activation passes both signs. A resumed run keeps its
    kernels. To keep the kernels fixed, freeze the layer: `--model.freeze '[whitening]'`.

    Args:
        layer: The name of the convolution in the network, without groups or bias; it has at most twice as many output
            channels as a patch has values.
        images: Number of training images to use, from the first on; all if there are fewer.

    Raises:
        ValueError: If `images` is not positive.
    """

    sets_weights: ClassVar = True  # tells the learning-rate range test to run this callback

    def __init__(self, layer: str = "whitening", images: int = 5000) -> None:
        if images < 1:
            raise ValueError(f"whitening.images is {images}; give a whole number of at least 1")
        self.layer = layer
        self.images = images

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the kernels, unless a checkpoint is loaded."""
        network, data = cast(Classifier, pl_module).network, getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule):
            raise UserError(
                "Whitening needs the images of one of the project's data modules; use one, or leave it out."
            )
        layer, channels = dict(network.named_modules()).get(self.layer), data.image_shape[0]
        if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or layer.in_channels != channels:
            raise UserError(
                f"{type(network).__name__} has no convolution {self.layer} of the images' channels, {channels}, to "
                "whiten by; give the name of its first convolution with whitening.layer, or leave the callback out."
            )
        patch = layer.weight[0].numel()
        if layer.out_channels > 2 * patch or layer.out_channels % 2:
            raise UserError(
                f"{self.layer} has {layer.out_channels} outputs; to whiten patches of {patch} numbers, give it an even "
                f"number up to {2 * patch}."
            )
        if trainer.ckpt_path is not None:
            return
        assert data.pack is not None, "setup comes before"
        images = data.pack[data.splits["train"][: self.images]][0].to(pl_module.device)
        images, _ = data.transform((images, torch.zeros(len(images), device=images.device)), training=False)
        height, width = layer.kernel_size
        with torch.no_grad():
            layer.weight.copy_(whitening_kernels(images, (height, width), layer.out_channels))


def whitening_kernels(images: Tensor, size: tuple[int, int], number: int) -> Tensor:
    """Return kernels `[N, C, *size]` that map patches of float images `[B, C, H, W]` to whitened values.

    These are uncorrelated and have variance 1. Half of the kernels are for the directions in which patches vary most,
    half are their negatives.
    """
    channels, patch = images.shape[1], images.shape[1] * size[0] * size[1]
    covariance = torch.zeros(patch, patch, dtype=torch.float64, device=images.device)
    count = 0
    for chunk in torch.split(images, IMAGES_AT_A_TIME):
        patches = F.unfold(chunk, size).transpose(1, 2).reshape(-1, patch).double()
        covariance += patches.T @ patches
        count += len(patches)
    variances, directions = torch.linalg.eigh(covariance / count)
    order = variances.argsort(descending=True)[: number // 2]
    kernels = directions.T[order] / (variances[order, None] + VARIANCE_FLOOR).sqrt()
    # Solvers differ in an eigenvector's sign; fix it, so that the kernels do not depend on the machine.
    kernels *= kernels.gather(1, kernels.abs().argmax(dim=1, keepdim=True)).sign()
    return torch.cat((kernels, -kernels)).to(images.dtype).view(-1, channels, *size)
