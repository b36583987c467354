from pathlib import Path

import pytest

from core.user_error import UserError
from datamodules.image_folder import ImageFolder
from tests.datamodules.test_image_folder import write_source


def test_images_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    write_source(tmp_path)
    images = ImageFolder(root=tmp_path, image_size=(12, 20), channels=1).read()["train"][0]
    assert images.shape[1:] == (1, 12, 20)
    assert ImageFolder(root=tmp_path, image_size=16).image_shape == (3, 16, 16)


@pytest.mark.parametrize("size", [0, -3, (12, 0)])
def test_refuses_a_size_without_pixels(tmp_path: Path, size: int | tuple[int, int]) -> None:
    with pytest.raises(UserError, match="give a positive number of pixels"):
        ImageFolder(root=tmp_path, image_size=size)
