from itertools import permutations

import pytest
from torch import nn

from datamodules.digits import Digits
from models.serialization.class_path import find_class
from models.serialization.constructor import is_default, parameter


def test_values_that_are_off_are_all_different() -> None:
    values: list[object] = [None, False, 0, 0.0, [], {}, ""]
    assert all(is_default(value, value) for value in values)
    assert not [pair for pair in permutations(values, 2) if is_default(*pair)]


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        ([1, 2.0], (1, 2.0), True),
        ([1, False], (1, 0), False),
        ([1], (1, 2), False),
        ("torch.nn.ReLU", nn.ReLU, True),
        ("elsewhere.ReLU", nn.ReLU, False),
        (None, nn.ReLU, False),
    ],
)
def test_a_configured_value_is_compared_as_the_configuration_writes_it(
    value: object, default: object, expected: bool
) -> None:
    assert is_default(value, default) is expected


def test_arguments_are_found_where_they_are_handed_on_to() -> None:
    found = parameter(Digits, "batch_size")
    assert found is not None
    assert found.default == 64
    assert parameter(Digits, "nonsense") is None
    assert parameter(int, "nonsense") is None


def test_only_what_is_imported_is_found() -> None:
    assert find_class("torch.nn.ReLU") is nn.ReLU
    paths: list[object] = ["antigravity.Cache", "torch.nn", "torch.save", "", None, {}]
    assert not any(map(find_class, paths))
