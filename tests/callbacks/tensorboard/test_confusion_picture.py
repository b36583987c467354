import numpy as np
import pytest

from callbacks.tensorboard.confusion_picture import CELL, COLOURS, confusion_picture, shade_levels


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 10, 20, 21, 200, 1000])
def test_any_number_of_classes_is_drawn(count: int) -> None:
    confusion = np.eye(count, dtype=np.int64) * 50
    confusion[0, 1], confusion[1, 0] = 25, 1
    names = [f"class {number} of a long name, really" for number in range(count)]
    picture = confusion_picture(confusion, names)
    assert count == 1000 or picture.height >= count * CELL, "names can be read"
    assert max(picture.size) < 3200
    numbers = np.asarray(picture).astype(np.int64) @ (2**16, 2**8, 1)
    colours = {f"#{number:06x}" for number in np.unique(numbers)}
    levels = shade_levels(confusion)
    assert {COLOURS[level - 1] for level in np.unique(levels[levels > 0])} <= colours


def test_the_shade_is_the_share_of_the_rows_images() -> None:
    confusion = np.array([[1000, 1, 0], [0, 0, 0], [3, 3, 3]])
    levels = shade_levels(confusion)
    assert levels.tolist() == [[8, 1, 0], [0, 0, 0], [6, 6, 6]]


def test_names_of_any_letters_are_drawn() -> None:
    assert confusion_picture(np.array([[1, 0], [0, 0]]), ["猫\udce9", "two\nlines"]).width > 100
