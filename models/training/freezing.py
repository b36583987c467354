"""Parts of a network that are not trained, for good or until an epoch."""

from collections.abc import Mapping, Sequence

from torch import nn

from core.near_names import near_names


class Freezing:
    """Decides from the epoch alone which parts of a network are trained, so that a resumed run knows it too.

    A frozen part has no gradients and is in evaluation mode: its batch norm normalises by the statistics that it came
    with, and does not change them.

    Args:
        network: The network.
        freeze: Names of the submodules that are frozen from the start, such as `backbone` or `backbone.layer1`.
        unfreeze: For an epoch, the names of submodules that are trained from there on.

    Raises:
        ValueError: If the network has no such submodule, nothing would be trained, or what is to be unfrozen is not
            frozen.
    """

    def __init__(
        self, network: nn.Module, freeze: Sequence[str] = (), unfreeze: Mapping[int, Sequence[str]] | None = None
    ) -> None:
        self._network = network
        self._freeze = tuple(freeze)
        self._unfreeze = dict(unfreeze or {})
        self._fixed = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        names = [name for name, _ in network.named_modules() if name]
        for name in [*self._freeze, *(name for part in self._unfreeze.values() for name in part)]:
            if name not in names:
                parts = "it has " + ", ".join(part for part, _ in network.named_children())
                raise ValueError(
                    f"{type(network).__name__} has no part {name} to freeze or unfreeze; "
                    f"{near_names(name, names, otherwise=parts)}"
                )
        for epoch, part in self._unfreeze.items():
            if epoch < 1:
                raise ValueError(f"unfreeze names epoch {epoch}; give 1 or later, or do not freeze {', '.join(part)}")
            for name in part:
                related = any(_is_within(name, frozen) or _is_within(frozen, name) for frozen in self._freeze)
                if not related:
                    raise ValueError(f"unfreeze names {name}, which is not frozen")
        self._frozen: list[nn.Module] = []
        if freeze and all(self.is_frozen(name, 0) for name, _ in network.named_parameters()):
            first = min(self._unfreeze, default=0)
            before = f" before epoch {first}; freeze less, or unfreeze it at once" if first else ""
            raise ValueError(f"freeze leaves nothing of {type(network).__name__} to train{before}")

    def is_frozen(self, name: str, epoch: int) -> bool:
        """Whether a submodule or parameter of this name is frozen in an epoch."""
        if name in self._fixed:  # by the network itself
            return True
        thawed = [part for start, parts in self._unfreeze.items() if start <= epoch for part in parts]
        return any(_is_within(name, part) for part in self._freeze) and not any(
            _is_within(name, part) for part in thawed
        )

    def is_ever_trained(self, name: str) -> bool:
        """Whether the parameter of this name is trained in some epoch."""
        return not self.is_frozen(name, self.last_change)

    @property
    def last_change(self) -> int:
        """The epoch from which on everything is trained that ever is; 0 if nothing depends on the epoch."""
        return max(self._unfreeze, default=0)

    def changes(self, epoch: int) -> bool:
        """Whether other parts are trained in an epoch than in the one before."""
        return epoch in self._unfreeze

    def apply(self, epoch: int) -> None:
        """Freeze what is frozen in an epoch, and nothing else."""
        if not self._freeze:
            return
        for name, parameter in self._network.named_parameters():
            parameter.requires_grad_(not self.is_frozen(name, epoch))
            if not parameter.requires_grad:
                parameter.grad = None
        before = set(self._frozen)
        self._frozen = [module for name, module in self._network.named_modules() if self.is_frozen(name, epoch)]
        for module in before - set(self._frozen):
            module.training = self._network.training
        self.keep_in_evaluation()

    def keep_in_evaluation(self) -> None:
        """Put what is frozen into evaluation mode, after the network was put into training mode."""
        for module in self._frozen:
            module.training = False


def _is_within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
