import pytest

from callbacks.tensorboard.filters import Filters


def test_refuses_to_draw_nothing() -> None:
    with pytest.raises(ValueError, match="max_tiles is 0"):
        Filters(0)
