"""The stock DataLoader, with a clock."""

import time
from collections.abc import Iterator
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader


class TimedLoader(DataLoader[Any]):
    """A DataLoader that knows how long its user has waited for batches.

    What a worker process refuses is raised as it was said there, without the worker's traceback.
    """

    seconds_waited = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # what torch's own private class is used for
        batches = super().__iter__()
        clock = time.perf_counter
        while True:
            start = clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except MisconfigurationException as error:
                sentence = str(error).rstrip().rsplit(f"{type(error).__name__}: ")[-1]
                raise MisconfigurationException(sentence) from None
            self.seconds_waited += clock() - start
            yield batch
