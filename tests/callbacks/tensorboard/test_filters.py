import pytest
from torch import nn

from callbacks.tensorboard.filters import Filters
from callbacks.tensorboard.image_grid import convolutions
from models.convnet import ConvNet
from models.mlp import MLP


def test_refuses_to_draw_nothing() -> None:
    with pytest.raises(ValueError, match="max_tiles is 0"):
        Filters(0)


def test_the_first_convolution_is_found_and_a_network_without_has_none() -> None:
    network = ConvNet(3, (32, 32), 10)
    first = network.get_submodule(convolutions(network)[0])
    assert isinstance(first, nn.Conv2d)
    assert first.in_channels == 3
    assert not convolutions(MLP(64, 10))
