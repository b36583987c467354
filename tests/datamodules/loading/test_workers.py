import gc
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from threading import Timer

import pytest
import torch
from torch.utils.data import Dataset

from datamodules.loading.loader import TimedLoader, WorkerError, lost_worker


class Struck(Dataset[int]):
    """Sends its worker a signal at the fourth item."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getitem__(self, index: int) -> int:
        if index == 3:
            os.kill(os.getpid(), self.number)
        return index


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "was killed, as the system does when memory runs out: use fewer with --data.num_workers"),
        (signal.SIGSTOP, "has given none for 1 s: it was stopped, or its disk does not answer"),
        (signal.SIGBUS, "shared memory in /dev/shm, where batches are handed over, is full: use --data.num_workers 0"),
    ],
)
def test_a_worker_that_fails_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    monkeypatch.setattr("datamodules.loading.workers.PATIENCE_SECONDS", 1.0)
    loader = TimedLoader(Struck(number), batch_size=None, sampler=[2, 3], num_workers=1)
    with pytest.raises(WorkerError, match=words) as error:
        list(loader)
    assert "\n" not in str(error.value)
    del error
    gc.collect()  # ends the workers
    for worker in active_children():
        worker.join(60)
        assert not worker.is_alive(), "the process could not end"


class Standstill(Dataset[torch.Tensor]):
    """Stops its worker when the second batch is on its way."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 1:
            Timer(0.5, os.kill, (os.getpid(), signal.SIGSTOP)).start()
        return torch.zeros(3)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process in /proc")
def test_a_worker_that_stops_before_its_batch_is_fetched_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.loading.workers.PATIENCE_SECONDS", 1.0)
    loader = TimedLoader(Standstill(), batch_size=None, sampler=[0, 1, 2], num_workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = active_children()
    state = Path(f"/proc/{worker.pid}/stat")
    while state.read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.01)
    with pytest.raises(WorkerError, match="it was stopped"):
        list(batches)


class Lost(Dataset[torch.Tensor]):
    """Loses its worker when a batch is on its way, which nobody has fetched."""

    def __init__(self) -> None:
        self.trains = os.getpid()

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2 and os.getpid() != self.trains:
            Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return torch.full((3,), index)


def first_and_worker(loader: TimedLoader) -> tuple[Iterator[torch.Tensor], int]:
    """Iterates, takes the first batch, and waits here, as in a training step, until the worker has died."""
    others = active_children()
    batches = iter(loader)
    assert next(batches).tolist() == [0] * 3
    (worker,) = (child for child in active_children() if child not in others)
    worker.join(60)
    return batches, worker.pid or 0


def test_a_worker_that_dies_during_a_step_is_told_when_the_next_batch_is_wanted() -> None:
    batches, worker = first_and_worker(TimedLoader(Lost(), batch_size=None, sampler=[0, 1, 2, 3], num_workers=1))
    with pytest.raises(WorkerError, match=rf"A process that loads batches \(pid {worker}\) was killed"):
        list(batches)


def test_a_training_has_all_batches_until_it_leaves_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_worker, "is_deferred", True)
    monkeypatch.setattr(lost_worker, "message", "")
    batches, worker = first_and_worker(TimedLoader(Lost(), batch_size=None, sampler=[0, 1, 2, 3], num_workers=1))
    assert [batch.tolist() for batch in batches] == [[1] * 3, [2] * 3, [3] * 3]
    assert f"(pid {worker}) was killed, as the system does when memory runs out" in lost_worker.message


@pytest.mark.parametrize("is_deferred", [True, False])
def test_a_worker_that_dies_between_two_epochs_is_told_too(monkeypatch: pytest.MonkeyPatch, is_deferred: bool) -> None:
    monkeypatch.setattr(lost_worker, "is_deferred", is_deferred)
    monkeypatch.setattr(lost_worker, "message", "")
    loader = TimedLoader(Indices(), batch_size=None, sampler=[0, 1], num_workers=1, persistent_workers=True)
    others = active_children()
    assert len(list(loader)) == 2
    (worker,) = (child for child in active_children() if child not in others)
    worker.kill()
    worker.join(60)
    words = f"(pid {worker.pid}) was killed"
    if is_deferred:
        assert [batch.tolist() for batch in loader] == [[0], [1]]
        assert words in lost_worker.message
    else:
        with pytest.raises(WorkerError, match=re.escape(words)):
            list(loader)


class Indices(Dataset[torch.Tensor]):
    """Gives its indices."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((1,), index)


class Large(Dataset[tuple[torch.Tensor, int]]):
    """Finds no space where its worker hands over the second item."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return torch.zeros(10_000), index


def test_a_batch_that_cannot_be_handed_over_is_told_at_once() -> None:
    loader = TimedLoader(Large(), batch_size=None, sampler=[0, 1], num_workers=1)
    with pytest.raises(WorkerError, match="shared memory in /dev/shm, where batches are handed over, is full"):
        list(loader)


def test_a_signal_to_the_whole_job_does_not_reach_workers() -> None:
    class Group(Dataset[int]):
        def __getitem__(self, index: int) -> int:
            return os.getpgid(0)

    assert list(TimedLoader(Group(), batch_size=None, sampler=[0], num_workers=1)) != [os.getpgid(0)]
    assert list(TimedLoader(Group(), batch_size=None, sampler=[0])) == [os.getpgid(0)]


def test_what_a_data_set_says_itself_is_not_taken_for_a_worker() -> None:
    class Broken(Dataset[int]):
        def __getitem__(self, index: int) -> int:
            raise RuntimeError("the third row is missing")

    with pytest.raises(RuntimeError, match="the third row is missing"):
        list(TimedLoader(Broken(), batch_size=None, sampler=[0], num_workers=1))
