import pytest
import torch

from datamodules.batching.sampler import KeyedBatchSampler, ResumePoint


def sampler(**arguments: int) -> KeyedBatchSampler:
    return KeyedBatchSampler(torch.arange(100), shuffle=True, **({"batch_size": 10} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({}, (0, 0)),
        ({"epoch": 3, "images_done": 40, "order": sampler().order}, (3, 40)),
        ({"epoch": 3, "images_done": 40, "order": sampler(seed=1).order}, (3, 0)),
        ({"epoch": 3, "images_done": 40, "order": sampler(seed=1).order, "is_over": True}, (3, 100)),
        ({"epoch": 3, "batches_done": 4}, (3, 40)),
    ],
)
def test_goes_on_at_the_place_of_a_checkpoint_if_the_order_is_the_same(
    state: dict[str, int], place: tuple[int, int]
) -> None:
    point = ResumePoint()
    point.load(state, sampler())
    assert (point.epoch, point.images_done) == place


def test_an_epoch_with_nothing_left_begins_again(capsys: pytest.CaptureFixture[str]) -> None:
    point, resumed = ResumePoint(), sampler(batch_size=30)
    point.load({"epoch": 2, "images_done": 90, "order": resumed.order}, resumed)
    resumed.resume(point.epoch, point.images_done)
    assert point.batches_done(resumed, 4) == 3
    assert point.batches_done(resumed, 3) == 0
    assert (point.images_done, resumed.images_done) == (0, 0)
    assert "epoch 2 begins again" in capsys.readouterr().out
    point.load({"epoch": 2, "images_done": 90, "order": resumed.order, "is_over": True}, resumed)
    resumed.resume(point.epoch, point.images_done)
    assert point.batches_done(resumed, 3) == 3


def test_an_epoch_that_an_older_checkpoint_has_done_does_not_begin_again() -> None:
    point, resumed = ResumePoint(), sampler()
    point.load({"epoch": 2, "batches_done": 10}, resumed)
    resumed.resume(point.epoch, point.images_done)
    assert point.batches_done(resumed, 10) == 10
    assert (point.epoch, point.images_done) == (2, 100)
