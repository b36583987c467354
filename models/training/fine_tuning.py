"""A pretrained network's training in two stages: its head alone, then all of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from core.user_error import UserError

if TYPE_CHECKING:  # imported when something is frozen
    from models.training.freezing import Freezing


@dataclass(frozen=True)
class FineTuning:
    """Trains the head on the frozen backbone, then the whole network at lower rates (Howard and Ruder, 2018).

    The schedule of the learning rate runs once in each stage, so that each has a warm-up of its own. Batch norm of the
    backbone keeps its statistics, which belong to what was learnt. Early stopping counts from the second stage on.

    Args:
        head_epochs: Epochs of the first stage; the second has the others of the run.
        lr: The learning rate of the last layer in the second stage; by default a thirtieth of the optimizer's.
        layer_decay: Factor on the learning rate for each layer further from the logits.
    """

    head_epochs: int
    lr: float | None = None
    layer_decay: float = 0.95

    def __post_init__(self) -> None:
        for name, value in (("head_epochs", self.head_epochs), ("lr", self.lr)):
            if value is not None and value <= 0:
                raise ValueError(f"model.finetune.{name} is {value:g}; give a number above 0, or leave it out")

    def freezing(self, network: nn.Module) -> "Freezing":
        """What of a network is trained when."""
        from models.training.freezing import Freezing

        check_parts(network, "model.finetune")
        return Freezing(network, ["backbone"], {self.head_epochs: ["backbone"]}, keeps_statistics=True)

    def schedule(self, make: Callable[..., Any], optimizer: Optimizer, head_steps: int, total_steps: int) -> LambdaLR:
        """The schedule that `make` gives, once in each stage."""
        head_steps = min(head_steps, total_steps)
        head, whole = (make(optimizer, total_steps=max(1, steps)) for steps in (head_steps, total_steps - head_steps))
        if not isinstance(head, LambdaLR) or not (peak := optimizer.defaults["lr"]):
            raise ValueError(
                "model.finetune scales a schedule that is a function of the step; give one such as "
                "models.schedule.WarmupCosine, and a learning rate above 0"
            )
        factor = self.lr / peak if self.lr else 1 / 30

        def rate(step: int) -> float:
            if step < head_steps:
                return float(head.lr_lambdas[0](step))
            return float(factor * whole.lr_lambdas[0](step - head_steps))

        schedule = LambdaLR(optimizer, rate)
        vars(schedule).update(head_steps=head_steps, total_steps=total_steps)  # a part of its state
        return schedule


def check_parts(network: nn.Module, setting: str) -> None:
    """Refuse a network without a backbone and a head for a setting that is about them."""
    for part in ("backbone", "head"):
        if part not in dict(network.named_children()):
            raise UserError(
                f"{setting} needs a network of backbone and head, but {type(network).__name__} has no part {part}; "
                f"take another network, or leave {setting} out with --{setting} null."
            )
