import numpy as np
import torch
from torch import nn

from callbacks.tensorboard.filters_picture import coloured, convolutions, filters_picture
from models.convnet import ConvNet
from models.mlp import MLP


def test_colours_begin_and_end_where_told() -> None:
    maps = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    colours = coloured(maps, torch.tensor(1.0), torch.tensor(2.0), "gray")
    assert colours[0, 0, 0].tolist() == [0, 0, 255, 255]
    assert torch.equal(colours[:, 0], colours[:, 2])


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


def test_the_first_convolution_is_found_and_a_network_without_has_none() -> None:
    network = ConvNet(3, (32, 32), 10)
    first = network.get_submodule(convolutions(network)[0])
    assert isinstance(first, nn.Conv2d)
    assert first.in_channels == 3
    assert not convolutions(MLP(64, 10))
