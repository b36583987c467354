"""Fine-tuning of a pretrained network in two stages: first its head, then the whole network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class FineTuning:
    """Trains the head on the frozen backbone, then the whole network at lower rates (Howard and Ruder, 2018).

    The learning-rate schedule runs once in each stage, so that each stage has its own warm-up. The backbone's batch
    norm keeps its pretrained statistics in both stages. Early stopping starts to count in the second stage.

    Args:
        head_epochs: Epochs of the first stage; the second stage takes the rest of the run.
        lr: Learning rate of the last layer in the second stage; by default a thirtieth of the optimizer's.
        layer_decay: Factor on the learning rate for each layer further from the logits.
    """

    head_epochs: int
    lr: float | None = None
    layer_decay: float = 0.95

    def __post_init__(self) -> None:
        for name, value in (("head_epochs", self.head_epochs), ("lr", self.lr)):
            if value is not None and value <= 0:
                raise ValueError(f"model.finetune.{name} is {value:g}; give a number above 0, or leave it out")

    def schedule(self, make: Callable[..., Any], optimizer: Optimizer, head_steps: int, total_steps: int) -> LambdaLR:
        """Return a schedule that runs the schedule of `make` once in each stage."""
        head_steps = min(head_steps, total_steps)
        first = make(optimizer, total_steps=max(1, head_steps))
        second = make(optimizer, total_steps=max(1, total_steps - head_steps))
        peak = optimizer.defaults["lr"]
        if not isinstance(first, LambdaLR) or not peak:
            raise ValueError(
                "model.finetune scales a schedule that is a function of the step; give one such as "
                "models.schedule.WarmupCosine, and a learning rate above 0"
            )
        second_factor = self.lr / peak if self.lr else 1 / 30

        def factor(step: int) -> float:
            if step < head_steps:
                return float(first.lr_lambdas[0](step))
            return float(second_factor * second.lr_lambdas[0](step - head_steps))

        schedule = LambdaLR(optimizer, factor)
        # As attributes of the schedule, these become part of its saved state.
        vars(schedule).update(head_steps=head_steps, total_steps=total_steps)
        return schedule
