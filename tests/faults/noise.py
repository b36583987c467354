"""A network and transforms that draw from every generator, and whose state changes with each batch."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.convnet import ConvNet


class Noise(nn.Module):
    """Multiplies by a number near 1 that depends on all generators and on all that has passed through."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.torch = torch.Generator().manual_seed(0)
        self.numpy = np.random.default_rng(0)
        self.python = random.Random(0)
        self.register_buffer("mean", torch.zeros(()))
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        """Images or logits, float, to the same."""
        drawn = random.random() + np.random.rand() + self.python.random() + self.numpy.random()
        drawn += float(torch.rand(()) + torch.rand((), generator=self.torch))
        if self.training:
            self.mean.lerp_(images.detach().mean().to(self.mean), 0.1)
            self.calls += 1
        return images * (0.9 + 0.02 * drawn + 0.05 * self.mean.to(images).sigmoid() + 0.01 * (self.calls % 7))

    def get_extra_state(self) -> dict[str, Any]:
        """What is no tensor."""
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.calls = state["calls"]


class NoisyMixing(Noise):
    """The same, of images and labels."""

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Images float `[B, C, H, W]` and probabilities float `[B, K]`."""
        return super().forward(images), labels


class NoisyConvNet(ConvNet):
    """Draws in evaluation as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.noise = Noise()

    def forward(self, images: Tensor) -> Tensor:
        """Images float `[B, C, H, W]` to logits `[B, K]`."""
        return self.noise(super().forward(images))  # type: ignore[no-any-return]
