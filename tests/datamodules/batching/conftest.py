"""Images of five classes to draw splits from."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(5).repeat_interleave(torch.tensor([100, 37, 13, 50, 1]))


@pytest.fixture
def digests() -> NDArray[np.uint64]:
    return np.random.default_rng(0).integers(2**64, size=201, dtype=np.uint64)
