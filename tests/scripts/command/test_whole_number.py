from argparse import ArgumentTypeError

import pytest

from scripts.command.whole_number import whole_number


def test_is_a_positive_whole_number() -> None:
    assert whole_number("12") == 12
    assert whole_number("0", least=0) == 0
    for text in ("0", "-1", "1.5", "many", "", "99999999999"):
        with pytest.raises(ArgumentTypeError, match="is no whole number of at least 1"):
            whole_number(text)
