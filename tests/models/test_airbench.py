import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.airbench import AirbenchNet, ShiftNorm2d


def test_has_the_published_size() -> None:
    # https://github.com/KellerJordan/cifar10-airbench counts 1.97 million, whitening and its bias included.
    network = AirbenchNet(3, (32, 32), 10)
    convolutions = 24 * 64 * 9 + 64 * 64 * 9 + 64 * 256 * 9 + 3 * 256 * 256 * 9
    assert sum(p.numel() for p in network.parameters()) == convolutions + 24 * 12 + 24 + 2 * (64 + 256 + 256) + 2560


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 48)])
def test_gives_logits(size: tuple[int, int]) -> None:
    network = AirbenchNet(1, size, 7, channels=(8, 16, 16))
    assert network(torch.randn(2, 1, *size)).shape == (2, 7)


def test_refuses_images_without_a_pixel_left() -> None:
    with pytest.raises(ValueError, match="3 stages leave no pixel of 8x8 images"):
        AirbenchNet(1, (8, 8), 10)


def test_a_stage_has_channels_and_there_may_be_none() -> None:
    with pytest.raises(ValueError, match=r"channels \[4, 0\] are not all at least 1"):
        AirbenchNet(1, (8, 8), 10, channels=(4, 0))
    assert AirbenchNet(1, (8, 8), 7, channels=())(torch.randn(2, 1, 8, 8)).shape == (2, 7)


def test_convolutions_begin_by_handing_on() -> None:
    layer = next(
        layer for layer in AirbenchNet(1, (16, 16), 7, channels=(8, 16)).stages if isinstance(layer, nn.Conv2d)
    )
    features = torch.randn(2, 8, 6, 6)
    assert torch.allclose(layer(features), features)


def test_normalises_as_batch_norm_does() -> None:
    ours, theirs = ShiftNorm2d(5), nn.BatchNorm2d(5, momentum=0.4)
    with torch.no_grad():
        ours.shift.copy_(torch.arange(5.0) / 8)
        theirs.bias.copy_(torch.arange(5.0))
    for _ in range(3):
        features = torch.randn(4, 5, 3, 3)
        assert torch.allclose(ours(features), theirs(features))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    ours.eval()
    theirs.eval()
    assert torch.allclose(ours(features), theirs(features))


def test_shifts_learn_64_times_as_fast() -> None:
    layer, features, target = ShiftNorm2d(2), torch.randn(4, 2, 3, 3), torch.tensor([0.3, -0.2])
    F.mse_loss(layer(features).mean(dim=(0, 2, 3)), target).backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(layer.parameters(), lr=0.001).step()
    # The gradient of the mean squared error over two numbers is their difference from the target.
    assert torch.allclose(layer.FACTOR * layer.shift.detach(), 0.064 * target, atol=1e-6)
