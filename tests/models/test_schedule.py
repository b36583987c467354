from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR, PolynomialLR, StepLR

from models.schedule import WarmupCosine, check_total_steps, length_note


def rates(steps: int, warmup: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = WarmupCosine(optimizer, steps, warmup)
    found = []
    for _ in range(steps):
        found.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return found


def test_climbs_to_the_optimizers_rate_and_falls_towards_zero() -> None:
    found = rates(100, warmup=0.1)
    assert max(found) == found[10] == 0.5
    assert found[:10] == sorted(found[:10])
    assert found[10:] == sorted(found[10:], reverse=True)
    assert 0 < found[-1] < 0.001


def test_without_warmup_starts_at_the_peak() -> None:
    assert rates(10, warmup=0)[0] == 0.5


def test_stays_at_zero_when_trained_for_longer_than_told() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = WarmupCosine(optimizer, total_steps=2)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [0]


@pytest.mark.parametrize(("steps", "warmup"), [(None, 0.1), (10, 1.0), (10, -0.1)])
def test_refuses_what_makes_no_schedule(steps: int | None, warmup: float) -> None:
    with pytest.raises(ValueError, match=r"total_steps is needed|warmup is"):
        WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), steps, warmup)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda optimizer: MultiStepLR(optimizer, [10, 29]), ""),
        (
            lambda optimizer: MultiStepLR(optimizer, [10, 30, 40]),
            "milestones from 30 on, which a run of 30 epochs does",
        ),
        (lambda optimizer: StepLR(optimizer, 29), ""),
        (lambda optimizer: StepLR(optimizer, 30), "step_size 30, which a run of 30 epochs does not reach: the rate is"),
        (lambda optimizer: CosineAnnealingLR(optimizer, 30), ""),
        (lambda optimizer: CosineAnnealingLR(optimizer, 20), "T_max 20, but is for a run of 30 epochs: it rises again"),
        (lambda optimizer: CosineAnnealingLR(optimizer, 630), "T_max 630, but is for a run of 30 epochs: it does not"),
        (lambda optimizer: PolynomialLR(optimizer, 30), ""),
        (lambda optimizer: PolynomialLR(optimizer, 40), "total_iters 40, but is for a run of 30 epochs: it does not"),
        (lambda optimizer: ConstantLR(optimizer, total_iters=50), ""),
    ],
)
def test_says_what_a_run_does_not_come_to(make: Callable[[torch.optim.Optimizer], LRScheduler], words: str) -> None:
    schedule = make(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))
    note = length_note(schedule, 30)
    assert words in note
    assert bool(note) == bool(words)
    assert length_note(schedule, -1) == length_note(schedule, None) == ""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda optimizer: StepLR(optimizer, 0), "step_size is 0; give a number of epochs of at least 1"),
        (lambda optimizer: CosineAnnealingLR(optimizer, -2), "T_max is -2; give a number of epochs of at least 1"),
        (
            lambda optimizer: PolynomialLR(optimizer, 5),
            "over after total_iters 5, but is for a run of 30 epochs; give 30",
        ),
    ],
)
def test_refuses_a_length_that_cannot_be(make: Callable[[torch.optim.Optimizer], LRScheduler], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        length_note(make(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])), 30)


def test_a_schedule_may_be_longer_than_the_run_but_not_shorter() -> None:
    assert check_total_steps(630, 630) == ""
    assert "has 631 steps, the run 630" in check_total_steps(631, 630)
    for steps in (631, float("inf")):
        with pytest.raises(ValueError, match="over after 630 optimizer steps"):
            check_total_steps(630, steps)
