"""Parts of a network that are not trained, either in the whole run or before some epoch."""

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
    """Decides from the epoch alone which parts of a network are trained, so that a resumed run decides alike.

    A frozen part gets no gradients and is in evaluation mode, so that its batch norm keeps its running statistics. With
    `keeps_statistics`, batch norm stays in evaluation mode after it is unfrozen.
    """

    def __init__(
        self,
        network: nn.Module,
        freeze: Sequence[str] = (),
        unfreeze: Mapping[int, Sequence[str]] | None = None,
        keeps_statistics: bool = False,
    ) -> None:
        self._network, self._freeze, self._unfreeze = network, tuple(freeze), dict(unfreeze or {})
        self.last_change = max(self._unfreeze, default=0)  # the last epoch in which a part is unfrozen; 0 if none
        self._kept_in_evaluation = BatchNorm if keeps_statistics else ()
        self._untrainable = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        self._frozen: list[nn.Module] = []
        module_names = [name for name, _ in network.named_modules() if name]
        unfrozen = [name for names in self._unfreeze.values() for name in names]
        for name in (*self._freeze, *unfrozen):
            if name not in module_names:
                parts = "it has " + ", ".join(part for part, _ in network.named_children())
                raise ValueError(
                    f"{type(network).__name__} has no part {name} to freeze or unfreeze; "
                    f"{near_names(name, module_names, otherwise=parts)}"
                )
        first_epoch = min(self._unfreeze, default=1)
        if first_epoch < 1:
            raise ValueError(f"unfreeze names epoch {first_epoch}; give 1 or later, or do not freeze what it names")
        for name in unfrozen:
            if not _is_within(name, self._freeze) and not any(_is_within(part, [name]) for part in self._freeze):
                raise ValueError(f"unfreeze names {name}, which is not frozen; freeze it, or leave it out")
        if freeze and all(self.is_frozen(name, epoch=0) for name, _ in network.named_parameters()):
            raise ValueError(f"freeze leaves nothing of {type(network).__name__} to train at first; freeze less")

    def is_frozen(self, name: str, epoch: int) -> bool:
        """Return True if the submodule or parameter of this name is frozen in the epoch."""
        if name in self._untrainable:
            return True
        unfrozen = [part for start, parts in self._unfreeze.items() if start <= epoch for part in parts]
        return _is_within(name, self._freeze) and not _is_within(name, unfrozen)

    def first_trained(self, part: str) -> float:
        """Return the first epoch that trains any module within a submodule; infinity if no epoch does."""
        names = [name for name, _ in self._network.named_modules() if _is_within(name, [part])]
        epochs = [epoch for epoch in (0, *self._unfreeze) if not all(self.is_frozen(name, epoch) for name in names)]
        return min(epochs, default=math.inf)

    def apply(self, epoch: int) -> bool:
        """Freeze the parts that are frozen in the epoch, unfreeze the others, and return True if that changes any."""
        for name, parameter in self._network.named_parameters():
            parameter.requires_grad_(not self.is_frozen(name, epoch))
            if not parameter.requires_grad:
                parameter.grad = None
        frozen_before = self._frozen
        for module in frozen_before:
            module.training = self._network.training
        self._frozen = [
            module
            for name, module in self._network.named_modules()
            if self.is_frozen(name, epoch)
            or (isinstance(module, self._kept_in_evaluation) and _is_within(name, self._freeze))
        ]
        self.keep_in_evaluation()
        return frozen_before != self._frozen

    def keep_in_evaluation(self) -> None:
        """Put frozen parts back into evaluation mode after a call of `network.train()`."""
        for module in self._frozen:
            module.training = False

    def check_run(self, trainer: "Trainer") -> None:
        """Raise UserError if the strategy cannot unfreeze; print a note if the run ends before the last change."""
        last, epochs = self.last_change, trainer.max_epochs
        if last and trainer.world_size > 1 and not getattr(trainer.strategy.model, "find_unused_parameters", False):
            raise UserError(
                "To train in several processes what was frozen at first, use --trainer.strategy "
                "ddp_find_unused_parameters_true."
            )
        if epochs is not None and 0 <= epochs <= last and trainer.is_global_zero:
            print(f"All is trained from epoch {last} on, which a run of {epochs} epochs does not reach.")


def freeze_backbone(network: nn.Module, epochs: int) -> Freezing:
    """Return the freezing of `model.finetune`: the backbone is frozen for so many epochs."""
    check_parts(network, "model.finetune")
    return Freezing(network, ["backbone"], {epochs: ["backbone"]}, keeps_statistics=True)


def check_parts(network: nn.Module, setting: str) -> None:
    """Raise UserError if the network lacks the `backbone` or `head` that the setting needs."""
    for part in ("backbone", "head"):
        if part not in dict(network.named_children()):
            raise UserError(
                f"{setting} needs a network of backbone and head, but {type(network).__name__} has no part {part}; "
                f"take another network, or leave {setting} out with --{setting} null."
            )


def _is_within(name: str, parts: Iterable[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
