import time
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import Dataset

from datamodules.loader import TimedLoader


class Slow(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        time.sleep(0.02)
        if index == 3:
            raise MisconfigurationException("Image 3 is gone.")
        return index


def test_counts_what_its_user_waits_and_not_what_the_user_does() -> None:
    loader = TimedLoader(Slow(), batch_size=None, sampler=[0, 1, 2])
    seen: list[Any] = []
    for index in loader:
        seen.append(index)
        waited = loader.seconds_waited
        time.sleep(0.05)
        assert loader.seconds_waited == waited
    assert seen == [0, 1, 2]
    assert loader.seconds_waited >= 0.06


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_refused_is_one_sentence_from_workers_too(workers: int) -> None:
    loader = TimedLoader(Slow(), batch_size=None, sampler=[2, 3], num_workers=workers)
    with pytest.raises(MisconfigurationException) as error:
        list(loader)
    assert str(error.value) == "Image 3 is gone."
