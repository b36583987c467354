"""What happens to a batch on the device, before the network sees it.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import groupby
from typing import Any

import torch
from kornia.augmentation.auto import PolicyAugmentBase
from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError
from datamodules.batching.normalization import Normalize
from datamodules.batching.per_image import OneByOne, PerImage, is_drawn_for_a_batch

# Images, uint8 or float32 `[B, C, H, W]`, and labels, int64 `[B]` or, of mixed images, probabilities `[B, K]`.
Batch = tuple[Tensor, Tensor]


class BatchTransform:
    """Turns uint8 to float32, augments and mixes in training, and normalises to `(x - mean) / std`.

    Args:
        mean: Mean of each channel on the scale [0, 1].
        std: Standard deviation of each channel, likewise.
        augmentation: Modules that map float32 images `[B, C, H, W]` in [0, 1] to such images, applied in turn.
        mixing: Modules that mix images and their labels; one of them is drawn for each batch.
        num_classes: Classes, K.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Sequence[nn.Module],
        mixing: Sequence[nn.Module],
        num_classes: int,
    ) -> None:
        self.augmentation: list[nn.Module] = []
        for one_by_one, modules in groupby(augmentation, is_drawn_for_a_batch):
            if one_by_one:
                self.augmentation.append(OneByOne(*modules))
            else:
                self.augmentation += (
                    PerImage(each) if isinstance(each, PolicyAugmentBase) else each for each in modules
                )
        self.mixing = mixing
        self.num_classes = num_classes
        self._normalize = Normalize(mean, std)

    @torch.no_grad()
    def __call__(self, batch: Batch, *, training: bool) -> Batch:
        """Transform a batch.

        Args:
            batch: Images uint8 `[B, C, H, W]` and labels int64 `[B]`.
            training: Whether to augment and to mix.

        Returns:
            Images float32 `[B, C, H, W]` and labels int64 `[B]` or, when mixed, float32 `[B, K]`.

        Raises:
            UserError: If augmentation changes the images' shape.
        """
        images, labels = batch
        if self._normalize.scale.device != images.device:
            self._normalize.to(images.device)
        if training and self.augmentation:
            images = self._augmented(images)
        images = self._normalize(images)
        if training and self.mixing:
            number = int(torch.randint(len(self.mixing), ())) if len(self.mixing) > 1 else 0
            images, labels = self.mixing[number](images, F.one_hot(labels, self.num_classes).float())
        return images, labels

    def _augmented(self, images: Tensor) -> Tensor:
        augmented = images / 255
        for module in self.augmentation:
            augmented = module(augmented)
        if augmented.shape != images.shape:
            raise UserError(
                f"data.augmentation makes images of {list(augmented.shape[1:])} from {list(images.shape[1:])}; give it "
                f"the size of the images, {list(images.shape[2:])}."
            )
        return augmented * 255


class ModuleState:
    """The buffers, parameters and extra state of some modules, as far as they have changed since they were constructed.

    The rest is configuration, which is that of the flags when a run is resumed.

    Args:
        modules: The modules, by what they are for.
    """

    def __init__(self, modules: Mapping[str, Sequence[nn.Module]]) -> None:
        self._modules = nn.ModuleDict(
            {
                use: nn.ModuleDict({f"{type(module).__name__} {place}": module for place, module in enumerate(some)})
                for use, some in modules.items()
            }
        )
        self._initial = deepcopy(self._modules.state_dict())

    def moved(self) -> dict[str, Any]:
        """A copy of what has changed, on the CPU."""
        state = {
            name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else deepcopy(value)
            for name, value in self._modules.state_dict().items()
        }
        return {name: value for name, value in state.items() if not _is_equal(value, self._initial.get(name))}

    def of_each_rank(self, world_size: int) -> list[dict[str, Any]]:
        """What has changed in each process of a run; all of them have to ask."""
        states = [self.moved()] * world_size
        if world_size > 1:
            torch.distributed.all_gather_object(states, states[0])
        return states

    def load(self, moved: Mapping[str, Any]) -> bool:
        """Take up what had changed; leave the modules as they are, and say so by False, if it is of others."""
        own = self._modules.state_dict()
        for name, value in moved.items():
            if name not in own or getattr(own[name], "shape", None) != getattr(value, "shape", None):
                return False
        self._modules.load_state_dict({**own, **self._initial, **moved})
        return True


def _is_equal(value: object, other: object) -> bool:
    return isinstance(value, Tensor) and isinstance(other, Tensor) and torch.equal(value, other.cpu())
