import numpy as np
import pytest
import torch

from scripts.layer_pictures import activations_picture, attribution_picture, coloured, filters_picture


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


def test_colours_begin_and_end_where_told() -> None:
    maps = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    colours = coloured(maps, torch.tensor(1.0), torch.tensor(2.0), "gray")
    assert colours[0, 0, 0].tolist() == [0, 0, 255, 255]
    assert torch.equal(colours[:, 0], colours[:, 2])


def test_a_constant_map_is_drawn() -> None:
    assert activations_picture(torch.zeros(2, 4, 4), 2).size == activations_picture(torch.rand(2, 4, 4), 2).size


def test_filters_of_three_channels_are_colours_and_grey_is_zero() -> None:
    weight = torch.zeros(2, 3, 5, 5)
    weight[0, 0] = 1.0
    pixels = np.asarray(filters_picture(weight, 64))
    assert pixels[20, 20].tolist() == [255, 128, 128]
    assert pixels[20, 130].tolist() == [128, 128, 128]


def test_filters_of_other_channels_are_a_row_for_each() -> None:
    picture = filters_picture(torch.randn(6, 10, 5, 5), 20)
    assert picture.width == filters_picture(torch.randn(6, 10, 5, 5), 10).width
    assert picture.height > filters_picture(torch.randn(6, 10, 5, 5), 10).height
    assert filters_picture(torch.zeros(4, 2, 3), 64).mode == "RGB"


@pytest.mark.parametrize("signed", [False, True])
def test_maps_stand_beside_the_image(signed: bool) -> None:
    image = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8)
    picture = attribution_picture(image, [("map", torch.rand(12, 16))], "title", signed=signed)
    assert picture.width > picture.height
    assert attribution_picture(image, [("map", torch.zeros(12, 16))], "title", signed=signed).size == picture.size
