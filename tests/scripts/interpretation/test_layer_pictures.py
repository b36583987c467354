import numpy as np
import pytest
import torch

from scripts.interpretation.layer_pictures import activations_picture, attribution_picture


@pytest.mark.parametrize("shape", [(5, 6, 6), (3, 1, 1), (7, 40), (10,), (500,)])
def test_any_output_is_drawn(shape: tuple[int, ...]) -> None:
    picture = activations_picture(torch.randn(shape, generator=torch.Generator().manual_seed(0)), most=4)
    assert picture.mode == "RGB"
    assert min(picture.size) > 50
    assert len(np.unique(np.asarray(picture))) > 5


def test_as_many_maps_as_asked_for() -> None:
    output = torch.randn(20, 6, 6)
    widths = [activations_picture(output, most).width for most in (1, 2, 8)]
    assert widths == sorted(set(widths))
    assert activations_picture(output, 9).height > activations_picture(output, 8).height


def test_a_constant_map_is_drawn() -> None:
    assert activations_picture(torch.zeros(2, 4, 4), 2).size == activations_picture(torch.rand(2, 4, 4), 2).size


@pytest.mark.parametrize("signed", [False, True])
def test_maps_stand_beside_the_image(signed: bool) -> None:
    image = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8)
    picture = attribution_picture(image, "map", torch.rand(12, 16), "title", signed=signed)
    assert picture.width > picture.height
    assert attribution_picture(image, "map", torch.zeros(12, 16), "title", signed=signed).size == picture.size
