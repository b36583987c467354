"""Parts of a network that are not trained, for good or until an epoch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from core.names import near_names
from core.user_error import UserError
from models.training.batch_norm import BatchNorm

if TYPE_CHECKING:  # Lightning takes seconds to import
    from lightning.pytorch import Trainer


class Freezing:
    """Decides from the epoch alone which parts of a network are trained, so that a resumed run decides the same.

    A frozen part has no gradients and is in evaluation mode: its batch norm keeps the statistics that it came with.
    Names are of submodules, such as `backbone.layer1`; `unfreeze` has those that are trained from an epoch on. With
    `keeps_statistics`, batch norm that was frozen at first stays in evaluation mode.
    """

    def __init__(
        self,
        network: nn.Module,
        freeze: Sequence[str] = (),
        unfreeze: Mapping[int, Sequence[str]] | None = None,
        keeps_statistics: bool = False,
    ) -> None:
        self._network, self._freeze, self._unfreeze = network, tuple(freeze), dict(unfreeze or {})
        self.last_change = max(self._unfreeze, default=0)  # the last epoch at which something is unfrozen; 0 if none
        self._kept = BatchNorm if keeps_statistics else ()
        self._untrainable = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        self._frozen: list[nn.Module] = []
        names = [name for name, _ in network.named_modules() if name]
        for name in (*self._freeze, *(part for parts in self._unfreeze.values() for part in parts)):
            if name not in names:
                parts = "it has " + ", ".join(part for part, _ in network.named_children())
                raise ValueError(
                    f"{type(network).__name__} has no part {name} to freeze or unfreeze; "
                    f"{near_names(name, names, otherwise=parts)}"
                )
        if (first := min(self._unfreeze, default=1)) < 1:
            raise ValueError(f"unfreeze names epoch {first}; give 1 or later, or do not freeze what it names")
        for name in (part for parts in self._unfreeze.values() for part in parts):
            if not _is_within(name, self._freeze) and not any(_is_within(part, [name]) for part in self._freeze):
                raise ValueError(f"unfreeze names {name}, which is not frozen; freeze it, or leave it out")
        if freeze and all(self.is_frozen(name, epoch=0) for name, _ in network.named_parameters()):
            raise ValueError(f"freeze leaves nothing of {type(network).__name__} to train at first; freeze less")

    def is_frozen(self, name: str, epoch: int) -> bool:
        """Whether the submodule or parameter of this name is frozen in an epoch."""
        thawed = [part for start, parts in self._unfreeze.items() if start <= epoch for part in parts]
        return name in self._untrainable or (_is_within(name, self._freeze) and not _is_within(name, thawed))

    def first_trained(self, part: str) -> float:
        """The first epoch in which something of a submodule is trained; infinite if there is none."""
        inside = [name for name, _ in self._network.named_modules() if _is_within(name, [part])]
        epochs = (epoch for epoch in (0, *self._unfreeze) if not all(self.is_frozen(name, epoch) for name in inside))
        return min(epochs, default=math.inf)

    def apply(self, epoch: int) -> bool:
        """Freeze the parts that are frozen in an epoch, and thaw all others; whether that changes something."""
        for name, parameter in self._network.named_parameters():
            parameter.requires_grad_(not self.is_frozen(name, epoch))
            if not parameter.requires_grad:
                parameter.grad = None
        before = self._frozen
        for module in before:
            module.training = self._network.training
        self._frozen = [
            module
            for name, module in self._network.named_modules()
            if self.is_frozen(name, epoch) or (isinstance(module, self._kept) and _is_within(name, self._freeze))
        ]
        self.keep_in_evaluation()
        return before != self._frozen

    def keep_in_evaluation(self) -> None:
        """Put frozen parts back into evaluation mode, after `train()` was called on the network."""
        for module in self._frozen:
            module.training = False

    def check_run(self, trainer: "Trainer") -> None:
        """Refuse a strategy that cannot unfreeze; say if the run ends before the last change."""
        last, epochs = self.last_change, trainer.max_epochs
        if last and trainer.world_size > 1 and not getattr(trainer.strategy.model, "find_unused_parameters", False):
            raise UserError(
                "To train in several processes what was frozen at first, use --trainer.strategy "
                "ddp_find_unused_parameters_true."
            )
        if epochs is not None and 0 <= epochs <= last and trainer.is_global_zero:
            print(f"All is trained from epoch {last} on, which a run of {epochs} epochs does not reach.")


def _is_within(name: str, parts: Iterable[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
