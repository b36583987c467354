import pytest
import torch
import torchvision
from torch import nn

from scripts.interpretation.architecture import layer_table, layers_of


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "vit_b_32"])
def test_sums_are_those_that_torchvision_publishes(name: str) -> None:
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    network = network.to_empty(device="cpu").eval()
    layers = layers_of(network, (3, 224, 224))
    assert sum(layer.parameters for layer in layers) == meta["num_params"]
    assert sum(layer.multiply_adds for layer in layers) / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)


def test_each_layer_is_told_once_with_its_shape() -> None:
    shared = nn.Linear(16, 16, bias=False)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), shared, shared)
    conv, relu, pool, flat, linear = layers_of(network.eval(), (1, 8, 8))
    assert (conv.name, conv.kind, conv.shape, conv.parameters) == ("0", "Conv2d", (4, 6, 6), 40)
    assert conv.multiply_adds == 4 * 36 * 9
    assert (relu.parameters, relu.multiply_adds, relu.shape) == (0, 0, (4, 6, 6))
    assert pool.shape == (4, 2, 2)
    assert flat.shape == (16,)
    assert (linear.parameters, linear.multiply_adds) == (256, 2 * 256)


def test_what_a_network_has_beside_its_layers_is_its_own() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5))
            self.layer = nn.Linear(4, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer(images.flatten(1)) * self.scale
            return logits

    own, layer = layers_of(Scaled().eval(), (1, 2, 2))
    assert (own.name, own.parameters, own.multiply_adds) == ("Scaled", 5, 0)
    assert (layer.name, layer.parameters, layer.multiply_adds) == ("layer", 25, 20)


def test_the_table_has_the_sums() -> None:
    table = layer_table(layers_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), (1, 8, 8)))
    assert table.rows[-1] == ["all", "", "", "195", "192"]
