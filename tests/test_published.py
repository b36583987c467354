"""What the published experiments say of their networks."""

import pytest
import yaml

from models.convnet import ConvNet
from models.mlp import MLP
from tests.discovery import CONFIGS


@pytest.mark.parametrize(
    ("config", "num_classes", "parameters"),
    [
        ("cifar2/mlp", 2, 1_574_402),
        ("cifar2/deep-mlp", 2, 3_737_474),
        ("cifar10/mlp", 10, 3_738_506),
        ("cifar3/convnet", 10, 18_354),
        ("mnist/convnet", 10, 21_840),
    ],
)
def test_networks_have_the_published_number_of_parameters(config: str, num_classes: int, parameters: int) -> None:
    node = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())["model"]["network"]
    init_args = {name: value for name, value in node["init_args"].items() if name != "activation"}
    size = 28 if config.startswith("mnist") else 32
    channels = 1 if config.startswith("mnist") else 3
    network = (
        MLP(channels * size**2, num_classes, **init_args)
        if node["class_path"].endswith("MLP")
        else ConvNet(channels, (size, size), num_classes, **init_args)
    )
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
