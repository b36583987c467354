"""A folder for each run, the same in all its processes."""

import os
from datetime import datetime
from itertools import count
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import _get_rank
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in its __all__

VARIABLE = "KINDLING_RUN_FOLDER"
"""Tells the folder to the processes that the first one starts."""


def agree_on_run_folder(experiment: Path) -> Path:
    """Make the run's folder in its first process, and learn of it in the others.

    Processes that the first one starts inherit its environment; those that torchrun starts ask torchrun's store.

    Args:
        experiment: The folder of all runs of the experiment.

    Returns:
        The folder, which is empty unless another process of the run was faster.

    Raises:
        MisconfigurationException: If it cannot be made.
    """
    store = None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"{VARIABLE}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if _get_rank() in (None, 0):
        folder = make_run_folder(experiment)
        os.environ[VARIABLE] = str(folder)
        if store:
            store.set(key, str(folder))
    elif store:
        folder = Path(store.get(key).decode())
    else:
        folder = Path(os.environ[VARIABLE])
    return folder


def make_run_folder(experiment: Path) -> Path:
    """Make the folder `experiment/<date-time>` for one run alone, even when two start in the same second.

    Args:
        experiment: The folder of all runs of the experiment.

    Returns:
        The new, empty folder.

    Raises:
        MisconfigurationException: If it cannot be made.
    """
    started = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for number in count(1):
        folder = experiment / (started if number == 1 else f"{started}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise MisconfigurationException(
                    f"The run folder {folder} cannot be made: a file is in its way; choose another place with --runs."
                ) from None
        except OSError as error:
            raise MisconfigurationException(
                f"The run folder {folder} cannot be made: {error.strerror}; choose another place with --runs."
            ) from error
        else:
            return folder
    raise AssertionError("count never ends")
