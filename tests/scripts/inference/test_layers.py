import pytest
import torch
import torchvision
from torch import nn

from core.user_error import UserError
from models.convnet import ConvNet
from models.mlp import MLP
from scripts.inference.layers import grad_cam, last_maps, layer_outputs


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return ConvNet(1, (8, 8), 3).eval()


def images(channels: int = 1, size: int = 8) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


CLASSES = torch.tensor([0, 2])


def test_outputs_are_those_of_each_layer_and_the_network_is_left_as_it_is() -> None:
    network = convnet()
    outputs = layer_outputs(network, images())
    inside = nn.Sequential(*list(network.children()))
    assert torch.equal(list(outputs.values())[-1], network(images()))
    assert set(outputs) <= dict(network.named_modules()).keys()
    assert not any(module._forward_hooks for module in inside.modules())


def test_outputs_are_not_those_that_the_next_layer_has_written_over() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 3)).eval()
    assert layer_outputs(network, images())["0"].min() < 0


def test_a_layer_that_is_not_there_is_answered_with_names_that_are_near() -> None:
    network = torchvision.models.resnet18(num_classes=3)
    with pytest.raises(UserError, match=r"no such layer; did you mean layer4.1.conv2"):
        grad_cam(network, "layer4.1.conv", images(3), CLASSES)
    with pytest.raises(UserError, match="without --layer to list them"):
        grad_cam(network, "?", images(3), CLASSES)


def test_the_last_maps_are_those_of_the_last_convolution_of_more_than_a_pixel() -> None:
    network = torchvision.models.resnet18(num_classes=3).eval()
    assert last_maps(network, images(3, 64)[:1]) == "layer4.1.conv2"
    assert last_maps(network, images(3, 32)[:1]) == "layer3.1.conv2"
    assert last_maps(MLP(64, 3).eval(), images()[:1]) is None


def test_grad_cam_is_where_the_evidence_is() -> None:
    linear = nn.Linear(1, 2)
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    picture = torch.zeros(1, 1, 8, 8)
    picture[..., 2, 5] = 3.0
    seen = grad_cam(network, "0", picture, torch.tensor([1]))
    assert seen.shape == (1, 8, 8)
    assert seen[0, 2, 5] == 1
    assert seen.sum() == 1
    nn.init.constant_(linear.weight, -1)
    assert grad_cam(network, "0", picture, torch.tensor([1])).sum() == 0, "nothing speaks for the class"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "resnet18", "densenet121"])
def test_grad_cam_of_layers_that_work_in_place(name: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=3).eval()
    before = [module for module in network.modules() if getattr(module, "inplace", False)]
    batch = images(3, 64)
    layer = last_maps(network, batch[:1])
    assert layer is not None
    seen = grad_cam(network, layer, batch, CLASSES)
    assert seen.shape == (2, 64, 64)
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert before == [module for module in network.modules() if getattr(module, "inplace", False)]


def test_grad_cam_of_a_layer_without_maps_is_refused() -> None:
    network = MLP(64, 3).eval()
    layer = next(name for name, module in network.named_modules() if isinstance(module, nn.Linear))
    with pytest.raises(UserError, match="no maps; give Grad-CAM a convolution"):
        grad_cam(network, layer, images(), CLASSES)
