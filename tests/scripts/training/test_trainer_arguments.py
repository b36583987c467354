from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from scripts.training.trainer_arguments import default_place, one_or_more


@pytest.mark.parametrize(("value", "values"), [(None, []), (1, [1]), ([1, 2], [1, 2]), ((), [])])
def test_what_is_given_alone_is_a_list_of_one(value: Any, values: list[Any]) -> None:
    assert one_or_more(value) == values


def test_a_logger_writes_to_its_own_place_in_the_runs_folder_unless_it_is_given_another() -> None:
    def logger(path: str, save_dir: str) -> Namespace:
        return Namespace(class_path=path, init_args=Namespace(save_dir=save_dir))  # type: ignore[no-untyped-call]

    assert default_place(logger("callbacks.curves.CSVLogger", "runs")) == Path()
    assert default_place(logger("callbacks.curves.CSVLogger", "elsewhere")) is None
    assert default_place(logger("lightning.pytorch.loggers.WandbLogger", ".")) == Path()
    assert default_place(None) is None
