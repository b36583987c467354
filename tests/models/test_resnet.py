from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from models.resnet import BasicBlock, ResNet
from tests.conftest import Run

SMALL = ("--model.network=models.resnet.ResNet", "--model.network.channels=[8,16]", "--model.network.blocks=[1,1]")


def test_is_resnet18_but_for_the_stem() -> None:
    def numbers(network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert numbers(ResNet(1000)) == numbers(resnet18()) - 3 * 64 * (7 * 7 - 3 * 3)


@pytest.mark.parametrize("side", [8, 32, 33, 64])
def test_gives_features_and_logits(side: int) -> None:
    network = ResNet(7, in_channels=2, channels=(4, 8, 16), blocks=(1, 2, 1))
    images = torch.randn(3, 2, side, side)
    assert network.backbone(images).shape == (3, 16)
    assert network(images).shape == (3, 7)
    sizes = []
    for stage in network.backbone[:6]:
        images = stage(images)
        sizes.append(images.shape[-1])
    assert sizes == [side, side, side, side, (side + 1) // 2, ((side + 1) // 2 + 1) // 2]


def test_a_block_begins_as_its_shortcut() -> None:
    features = torch.rand(2, 4, 8, 8)
    (block,) = (module for module in ResNet(7, channels=(4,), blocks=(1,)).modules() if isinstance(module, BasicBlock))
    assert torch.equal(block(features), features)


def test_refuses_stages_without_blocks() -> None:
    with pytest.raises(ValueError, match="channels has 4 numbers and blocks 3"):
        ResNet(10, blocks=(2, 2, 2))
    with pytest.raises(ValueError, match="channels has 0 numbers"):
        ResNet(10, channels=(), blocks=())
    with pytest.raises(ValueError, match=r"blocks \[1, 0\] are not all at least 1"):
        ResNet(10, channels=(4, 4), blocks=(1, 0))
    with pytest.raises(ValueError, match=r"channels \[0, 4\] are not all at least 1"):
        ResNet(10, channels=(0, 4), blocks=(1, 1))


@pytest.mark.slow
def test_begins_from_the_backbone_of_another_run(train: Callable[..., Run]) -> None:
    first = train(*SMALL, "--trainer.max_epochs=1", "--experiment=first")
    begun = ResNet(3, in_channels=1, channels=(8, 16), blocks=(1, 1), weights=str(first.last))
    for name, value in begun.backbone.state_dict().items():
        assert torch.equal(value, first.checkpoint["state_dict"][f"network.backbone.{name}"])
