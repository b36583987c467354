import pytest
import torch
from torch import nn

from models.mlp import MLP


@pytest.mark.parametrize(
    ("hidden_sizes", "num_classes", "parameters"),
    [([512], 2, 1_574_402), ([1024, 512, 128], 2, 3_737_474), ([1024, 512, 128], 10, 3_738_506)],
)
def test_has_the_published_number_of_parameters(hidden_sizes: list[int], num_classes: int, parameters: int) -> None:
    network = MLP(3072, num_classes, hidden_sizes, activation=nn.Tanh)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_without_hidden_layers_is_linear() -> None:
    network = MLP(in_features=12, num_classes=3, hidden_sizes=())
    a, b = torch.randn(2, 5, 3, 2, 2)
    assert torch.allclose(network(a) + network(b), network(a + b) + network(torch.zeros_like(a)), atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    network, images = MLP(4, 2, (64,), dropout=0.5), torch.randn(8, 1, 2, 2)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
