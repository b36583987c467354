from typing import Any

import pytest
from jsonargparse import Namespace

from scripts.training.trainer_arguments import is_project_logger, one_or_more


@pytest.mark.parametrize(("value", "values"), [(None, []), (1, [1]), (True, []), ([1, 2], [1, 2]), ((), [])])
def test_what_is_given_alone_is_a_list_of_one(value: Any, values: list[Any]) -> None:
    assert one_or_more(value) == values


def test_loggers_of_this_project_are_told_from_others() -> None:
    def logger(path: str) -> Namespace:
        return Namespace(class_path=path)  # type: ignore[no-untyped-call]

    assert is_project_logger(logger("callbacks.curves.CSVLogger"))
    assert is_project_logger(logger("callbacks.curves.TensorBoardLogger"))
    assert not is_project_logger(logger("lightning.pytorch.loggers.WandbLogger"))
