import pytest
import torch
from torch import Tensor, nn

from callbacks.tensorboard.network_tracing import trace
from models.convnet import ConvNet
from models.resnet import ResNet


class Contrary(nn.Module):
    """Changes all that it can when it is applied; draws random numbers in evaluation too."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, num_classes))
        self.register_buffer("applied", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        breakpoint()  # which is passed by
        assert isinstance(self.applied, Tensor)
        self.applied += 1
        logits: Tensor = self.inner(images)
        return logits + torch.rand(())


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_a_network_is_left_as_it_was(compiled: bool) -> None:
    network = Contrary()
    network.inner[1].eval()  # as one that is frozen
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes, state = [module.training for module in network.modules()], torch.get_rng_state()
    if compiled:
        network.compile()
    traced, image = trace(network, {"channels": 1, "image_size": [8, 8]}) or (None, None)
    assert traced is not None
    assert image is not None
    assert image.shape == (1, 1, 8, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("network", [ConvNet(3, (32, 32), 7), ResNet(in_channels=3, num_classes=7).to(torch.bfloat16)])
def test_networks_of_the_house_can_be_traced(network: nn.Module) -> None:
    assert trace(network, {"channels": 3, "image_size": [32, 32]})
