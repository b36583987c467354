from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from models.schedule import WarmupCosine
from models.training.resumption import advance, take_counts, take_up_plateau

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], LRScheduler]] = {
    "WarmupCosine": lambda optimizer: WarmupCosine(optimizer, 40),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=40),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 3),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 9]),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 30),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 5),
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, 30, 2.0),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, 4),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)], [5]
    ),
    "ChainedScheduler": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    ),
}


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("steps", [0, 1, 2, 17, 40])
def test_stands_where_as_many_steps_lead(make: Callable[[torch.optim.Optimizer], LRScheduler], steps: int) -> None:
    stands = []
    for straight in (True, False):
        slow: dict[str, Any] = {"params": [torch.zeros(1)], "lr": 0.02}
        optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]}, slow], 0.1, 0.9)
        scheduler = make(optimizer)
        if straight:
            advance(scheduler, steps)
        else:
            for _ in range(steps):
                optimizer.step()
                scheduler.step()
        groups = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        stands.append((groups, scheduler.get_last_lr(), vars(scheduler).get("_step_count")))
    assert stands[0] == stands[1]


def plateau(lr: float, *figures: float, **arguments: Any) -> tuple[ReduceLROnPlateau, list[dict[str, Any]]]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr)
    defaults: dict[str, Any] = {"monitor": "val/loss", "patience": 0}
    scheduler = ReduceLROnPlateau(optimizer, **(defaults | arguments))
    vars(scheduler)["basis"] = {"metric": scheduler.monitor, "mode": scheduler.mode}
    for figure in figures:
        scheduler.step(figure)
    return scheduler, [{"initial_lr": lr, **optimizer.param_groups[0]}]


@pytest.mark.parametrize(
    ("lr", "arguments", "rate"),
    [
        (0.3, {}, 0.3 * 0.1 * 0.1),
        (0.2, {}, 0.2 * 0.1 * 0.1),
        (0.3, {"factor": 0.5}, 0.3 * 0.5 * 0.5),
        (0.3, {"min_lr": 0.02}, 0.02),
    ],
)
def test_a_plateau_goes_on_with_its_reductions_and_the_arguments_that_it_has_now(
    lr: float, arguments: dict[str, Any], rate: float
) -> None:
    before, groups = plateau(0.3, 1.0, 2.0, 3.0)
    after, _ = plateau(lr, **arguments)
    take_up_plateau(after, before.state_dict(), groups)
    assert after.optimizer.param_groups[0]["lr"] == rate == after.get_last_lr()[0]
    assert (after.best, after.last_epoch) == (1.0, 3)
    if lr == 0.3 and not arguments:
        assert after.state_dict() == before.state_dict()


@pytest.mark.parametrize("arguments", [{"monitor": "val/accuracy"}, {"mode": "max"}])
def test_a_plateau_forgets_the_best_of_another_figure(arguments: dict[str, Any]) -> None:
    before, groups = plateau(0.3, 1.0, 2.0, patience=5)
    after, _ = plateau(0.3, **arguments)
    best = after.best
    take_up_plateau(after, before.state_dict(), groups)
    assert (after.best, after.num_bad_epochs) == (best, 0)


def test_a_plateau_of_an_older_checkpoint_keeps_its_rate() -> None:
    before, groups = plateau(0.3, 1.0, 2.0)
    after, _ = plateau(0.3)
    take_up_plateau(after, before.state_dict(), [{"lr": groups[0]["lr"]}])
    assert after.optimizer.param_groups[0]["lr"] == 0.3 * 0.1


@pytest.mark.parametrize("is_first", [True, False])
def test_the_first_process_goes_on_with_the_counts_of_all(is_first: bool) -> None:
    of_each = {"counts": {"train_metrics.total": torch.tensor([20, 10])}}  # as earlier checkpoints have them
    for more in ({}, of_each):
        total = 20 if more else 30
        weights = {"network.bias": torch.ones(1), "train_metrics.total": torch.tensor(total)}
        take_counts({"state_dict": weights, **more}, "train_metrics.", is_first=is_first)
        assert int(weights["train_metrics.total"]) == (30 if is_first else 0)
        assert int(weights["network.bias"]) == 1
