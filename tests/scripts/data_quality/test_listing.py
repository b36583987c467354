import numpy as np
import pytest

from datamodules.digits import Digits
from datamodules.packing.pack import Rows
from scripts.data_quality.listing import Listing, view


def test_images_of_the_classes_are_named_by_their_place_in_the_source() -> None:
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8), np.uint8)
    source = {"train": Rows(images[:4], np.array([0, 1, 2, 1])), "val": Rows(images[4:], np.array([1, 0]))}
    listing = Listing(Digits(classes=["2", "1"]), source)
    assert listing.class_names == ["2", "1"]
    assert listing.names == ["train[1]", "train[2]", "train[3]", "val[0]"]
    assert listing.labels.tolist() == [1, 0, 1, 1]
    assert [listing.picture(place).getpixel((0, 0)) for place in range(4)] == [(level,) * 3 for level in (1, 2, 3, 4)]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "2 channels"), (3, "RGB"), (5, "5 channels")])
def test_arrays_are_shown_in_colour_whatever_their_channels(channels: int, mode: str) -> None:
    levels, image, size, stored = view(np.zeros((2, channels, 8, 6), np.uint8), 1)
    assert (levels.shape, image.mode, size, stored) == ((channels, 8, 6), "RGB", (6, 8), mode)


def test_levels_of_sixteen_bits_are_told_apart_and_their_picture_is_bright() -> None:
    images = np.zeros((2, 1, 8, 8), np.uint16)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 300, 301
    for number in (0, 1):
        levels, image, _, mode = view(images, number)
        assert np.array_equal(levels, images[number])
        assert mode == "L in 16 bits"
        assert image.getextrema() == ((0, 255),) * 3
