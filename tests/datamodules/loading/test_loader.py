import os
from typing import Any

import pytest
from torch.utils.data import Dataset

from core.user_error import UserError
from datamodules.loading.loader import TimedLoader, available_cores


class Clock:
    """Stands still until somebody takes time."""

    seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


class Slow(Dataset[int]):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __getitem__(self, index: int) -> int:
        self.clock.seconds += 2
        if index == 3:
            raise UserError("Image 3 is gone.")
        return index


def test_counts_what_its_user_waits_and_not_what_the_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("datamodules.loading.loader.time", clock)
    loader = TimedLoader(Slow(clock), batch_size=None, sampler=[0, 1, 2])
    seen: list[Any] = []
    for index in loader:
        seen.append(index)
        assert loader.seconds_waited == 2 * len(seen)
        clock.seconds += 5
    assert seen == [0, 1, 2]
    assert loader.seconds_waited == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_refused_is_one_sentence_from_workers_too(workers: int) -> None:
    loader = TimedLoader(Slow(Clock()), batch_size=None, sampler=[2, 3], num_workers=workers)
    with pytest.raises(UserError) as error:
        list(loader)
    assert str(error.value) == "Image 3 is gone."


def test_the_cores_are_those_that_the_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    assert available_cores() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
