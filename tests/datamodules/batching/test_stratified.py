import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.batching.split import class_counts
from datamodules.batching.stratified import hashed_sample, rarest_labels, stratified_split

SIZES = 0.1, 0.25, 40, 1, 200


@pytest.mark.parametrize("size", SIZES)
def test_keeps_each_classs_share_to_within_an_image(
    labels: Tensor, digests: NDArray[np.uint64], size: int | float
) -> None:
    count = round(size * len(labels)) if isinstance(size, float) else size
    share = torch.bincount(labels) * count / len(labels)
    for chosen in (stratified_split(labels, size, seed=0), hashed_sample(labels, digests, size, seed=0)):
        assert chosen.sum() == count
        assert (torch.bincount(labels[chosen], minlength=5) - share).abs().max() <= 1


def test_several_labels_are_stood_for_by_the_rarest() -> None:
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.uint8)
    assert rarest_labels(labels).tolist() == [1, 0, 3, 1, 2]
    assert class_counts(labels, 3).tolist() == [4, 3, 1]
