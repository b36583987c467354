"""Save and restore the state of augmentation and mixing modules."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class ModuleState:
    """The changed entries of modules' state dicts; a resumed run takes the unchanged ones from its configuration."""

    def __init__(self, modules: Mapping[str, Sequence[nn.Module]]) -> None:
        self._modules = nn.ModuleDict()
        for use, sequence in modules.items():
            named = {f"{type(module).__name__} {position}": module for position, module in enumerate(sequence)}
            self._modules[use] = nn.ModuleDict(named)
        self._initial = deepcopy(self._modules.state_dict())

    def changed(self) -> dict[str, Any]:
        """Return a copy of all changed entries, on the CPU."""
        changed: dict[str, Any] = {}
        for name, value in self._modules.state_dict().items():
            if not isinstance(value, Tensor):
                changed[name] = deepcopy(value)
            elif name not in self._initial or not torch.equal(value.cpu(), self._initial[name].cpu()):
                changed[name] = value.to("cpu", copy=True)
        return changed

    def of_each_rank(self, world_size: int) -> list[dict[str, Any]]:
        """Return the changed entries of each rank; all ranks must call this."""
        states = [self.changed()] * world_size
        if world_size > 1:
            torch.distributed.all_gather_object(states, states[0])
        return states

    def load(self, changed: Mapping[str, Any]) -> bool:
        """Restore entries that `changed` returned; if they belong to other modules, do nothing and return False."""
        state = self._modules.state_dict()
        fits = all(
            name in state and getattr(state[name], "shape", None) == getattr(value, "shape", None)
            for name, value in changed.items()
        )
        if fits:
            self._modules.load_state_dict({**state, **self._initial, **changed})
        return fits

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the current state at the end of the block."""
        state = self.changed()
        try:
            yield
        finally:
            self.load(state)
