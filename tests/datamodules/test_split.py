import pytest
import torch
from torch import Tensor

from datamodules.split import stratified_split


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(5).repeat_interleave(torch.tensor([100, 37, 13, 50, 1]))


@pytest.mark.parametrize("size", [0.1, 0.25, 40, 1, 200])
def test_keeps_each_classs_share_to_within_an_image(labels: Tensor, size: int | float) -> None:
    rest, drawn = stratified_split(labels, size, seed=0)
    count = round(size * len(labels)) if isinstance(size, float) else size
    assert len(drawn) == count
    assert torch.equal(torch.cat([rest, drawn]).sort().values, torch.arange(len(labels)))
    share = torch.bincount(labels) * count / len(labels)
    assert (torch.bincount(labels[drawn], minlength=5) - share).abs().max() <= 1


def test_follows_the_seed_alone(labels: Tensor) -> None:
    first, again, other = (stratified_split(labels, 0.3, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("size", [-1, 202, 1.5])
def test_refuses_more_than_there_is(labels: Tensor, size: int | float) -> None:
    with pytest.raises(ValueError, match="of 201 images"):
        stratified_split(labels, size, seed=0)
