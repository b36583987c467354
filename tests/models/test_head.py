import pytest
from torch import nn

from models.head import head_layers


def test_has_the_sizes_asked_for() -> None:
    layers = head_layers(512, (1024, 1024), 200)
    assert [str(layer) for layer in layers if isinstance(layer, nn.Linear)] == [
        str(nn.Linear(fan_in, fan_out)) for fan_in, fan_out in ((512, 1024), (1024, 1024), (1024, 200))
    ]
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_activates_and_drops_hidden_units_alone() -> None:
    layers = head_layers(8, (4,), 2, nn.Tanh, 0.3)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.Tanh, nn.Dropout, nn.Linear]
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [0.3]
    assert [type(layer) for layer in head_layers(8, (), 2, dropout=0.3)] == [nn.Linear]
    normed = head_layers(8, (4,), 2, batch_norm=True)
    assert [str(layer) for layer in normed[:2]] == [str(nn.Linear(8, 4, bias=False)), str(nn.BatchNorm1d(4))]


@pytest.mark.parametrize("sizes", [(0,), (8, -3)])
def test_refuses_layers_of_nothing(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"hidden layers \[.*\] are not all at least 1; give whole numbers"):
        head_layers(4, sizes, 10)
