import pytest

from core.user_error import UserError
from scripts.command.number_of_images import number_of_images


def test_is_a_positive_whole_number() -> None:
    assert number_of_images("12") == 12
    for text in ("0", "-1", "1.5", "many", ""):
        with pytest.raises(UserError, match=r"--images is .*; give a whole number of at least 1"):
            number_of_images(text)
