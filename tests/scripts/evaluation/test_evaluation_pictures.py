import numpy as np
import pytest
import torch
from PIL import Image

from scripts.evaluation.evaluation_pictures import SMALLEST_SIDE, laid_over


@pytest.mark.parametrize("size", [(8, 6), (200, 100)])
def test_a_map_colours_the_image_where_it_is_high(size: tuple[int, int]) -> None:
    seen = torch.zeros(size[1], size[0])
    seen[:, size[0] // 2 :] = 1
    picture = laid_over(Image.new("RGB", size, "white"), seen)
    assert max(picture.size) >= min(SMALLEST_SIDE, max(picture.size))
    assert picture.width * size[1] == picture.height * size[0]
    pixels = np.asarray(picture).astype(int)
    assert pixels[:, -1].mean() > pixels[:, 0].mean()
    assert (pixels[0, 0].max() - pixels[0, 0].min()) < 10, "grey where nothing is seen"
