"""Learning-rate schedules over a whole run."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up to the optimizer's learning rate, then half a cosine to zero (Loshchilov and Hutter, 2017).

    Args:
        optimizer: The optimizer. Its `lr` is the peak of the schedule.
        total_steps: Optimizer steps of the whole run; the Classifier fills them in.
        warmup: Fraction of the steps in the warm-up.

    Raises:
        ValueError: If `total_steps` is missing or `warmup` is outside [0, 1).
    """

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None, warmup: float = 0.1) -> None:
        if total_steps is None:
            raise ValueError("total_steps is needed; the Classifier takes it from the Trainer")
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is {warmup}; give a fraction of the steps, from 0 to below 1")
        self.total_steps = total_steps
        warmup_steps = warmup * total_steps

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = min(1.0, (step - warmup_steps) / max(1.0, total_steps - warmup_steps))
            return 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)
