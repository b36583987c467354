"""The state of augmentation and mixing, which a resumed run restores."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class ModuleState:
    """What has changed in modules since they were constructed; a resumed run takes the rest from its flags."""

    def __init__(self, modules: Mapping[str, Sequence[nn.Module]]) -> None:
        self._modules = nn.ModuleDict(
            {
                use: nn.ModuleDict({f"{type(module).__name__} {place}": module for place, module in enumerate(some)})
                for use, some in modules.items()
            }
        )
        self._initial = deepcopy(self._modules.state_dict())

    def changed(self) -> dict[str, Any]:
        """A copy of what has changed, on the CPU."""
        changed: dict[str, Any] = {}
        for name, value in self._modules.state_dict().items():
            if not isinstance(value, Tensor):
                changed[name] = deepcopy(value)
            elif name not in self._initial or not torch.equal(value.cpu(), self._initial[name].cpu()):
                changed[name] = value.to("cpu", copy=True)
        return changed

    def of_each_rank(self, world_size: int) -> list[dict[str, Any]]:
        """What has changed in each process of a run; every process must call this."""
        states = [self.changed()] * world_size
        if world_size > 1:
            torch.distributed.all_gather_object(states, states[0])
        return states

    def load(self, changed: Mapping[str, Any]) -> bool:
        """Restore a state that `changed` gave; if it is of other modules, restore nothing and return False."""
        own = self._modules.state_dict()
        is_same = all(
            name in own and getattr(own[name], "shape", None) == getattr(value, "shape", None)
            for name, value in changed.items()
        )
        if is_same:
            self._modules.load_state_dict({**own, **self._initial, **changed})
        return is_same

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Put the state back at the end of the block, whatever passes through the modules inside."""
        before = self.changed()
        try:
            yield
        finally:
            self.load(before)
