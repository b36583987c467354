import pytest
import torch
from torch import nn

from models.convnet import ConvNet


def test_has_the_published_number_of_parameters() -> None:
    network = ConvNet(3, (32, 32), 10, (16, 8), activation=nn.Tanh, batch_norm=False, head_sizes=(32,))
    assert sum(parameter.numel() for parameter in network.parameters()) == 18_354


def test_head_meets_the_features_of_the_published_networks() -> None:
    mnist = ConvNet(1, (28, 28), 10, (10, 20), 5, 0, batch_norm=False, dropout=(0.0, 0.5), head_sizes=(50,))
    tiny_imagenet = ConvNet(
        *(3, (64, 64), 200, (64, 128, 256, 512, 1024)),
        pooled_stages=4,
        global_pool=True,
        batch_norm=False,
        head_sizes=(1024, 1024),
    )
    assert [layer.in_features for layer in mnist.head if isinstance(layer, nn.Linear)] == [320, 50]
    assert [layer.in_features for layer in tiny_imagenet.head if isinstance(layer, nn.Linear)] == [1024] * 3
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in tiny_imagenet.stages) == 4


@pytest.mark.parametrize("image_size", [(8, 8), (9, 14)])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
def test_any_image_and_kernel_give_logits(image_size: tuple[int, int], kernel_size: int) -> None:
    network = ConvNet(2, image_size, 7, kernel_size=kernel_size, head_batch_norm=True, head_dropout=0.1, dropout=0.1)
    assert network(torch.randn(4, 2, *image_size)).shape == (4, 7)


def test_layers_are_those_asked_for() -> None:
    plain = ConvNet(1, (8, 8), 10, batch_norm=False)
    assert not any(
        isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d | nn.Dropout | nn.Dropout2d) for layer in plain.modules()
    )
    full = ConvNet(1, (8, 8), 10, dropout=0.1, head_dropout=0.2, head_batch_norm=True)
    for kind, number in ((nn.BatchNorm2d, 2), (nn.BatchNorm1d, 1), (nn.Dropout2d, 2), (nn.Dropout, 1)):
        assert sum(isinstance(layer, kind) for layer in full.modules()) == number


def test_refuses_more_pooling_than_pixels() -> None:
    with pytest.raises(ValueError, match="stage 4 of 5 leaves no pixel of 8x8 images"):
        ConvNet(1, (8, 8), 10, channels=(4, 4, 4, 4, 4))


def test_refuses_layers_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"channels \[4, 0\] are not all at least 1; give whole numbers"):
        ConvNet(1, (8, 8), 10, channels=(4, 0))
    with pytest.raises(ValueError, match=r"head_sizes \[-3\] are not all at least 1; give whole numbers"):
        ConvNet(1, (8, 8), 10, head_sizes=(-3,))


def test_refuses_dropout_for_another_number_of_stages() -> None:
    with pytest.raises(ValueError, match="dropout has 3 numbers for 2 stages"):
        ConvNet(1, (8, 8), 10, dropout=(0.1, 0.2, 0.3))
