import pytest
import torch

from models.schedule import WarmupCosine


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
