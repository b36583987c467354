import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from datamodules.digits import Digits
from models.convnet import ConvNet
from models.training.batch_norm import compute_statistics, trained_batch_norms


def batches(digits: Digits) -> list[torch.Tensor]:
    return [digits.transform(batch, training=False)[0] for batch in digits.images_in_order("train", 256)]


def test_are_those_that_torch_computes(digits: Digits) -> None:
    torch.manual_seed(0)
    networks = [ConvNet(1, (8, 8), 10, channels=(4, 8), head_batch_norm=True) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    layers = trained_batch_norms(networks[0])
    assert len(layers) == 3
    compute_statistics(networks[0], layers, batches(digits))
    update_bn(batches(digits), networks[1])
    for name, value in networks[1].state_dict().items():
        assert torch.allclose(networks[0].state_dict()[name], value, atol=1e-6), name
    assert [layer.momentum for layer in layers] == [0.1, 0.1, 0.1]


def test_what_is_frozen_or_keeps_no_statistics_is_left_out() -> None:
    frozen = nn.BatchNorm2d(2).eval()
    assert trained_batch_norms(nn.Sequential(frozen, nn.BatchNorm2d(2, track_running_stats=False))) == []


def test_the_momentum_is_given_back_when_a_batch_fails() -> None:
    layer = nn.BatchNorm2d(2)
    with pytest.raises(ValueError, match="expected 4D input"):
        compute_statistics(layer, [layer], [torch.zeros(3)])
    assert layer.momentum == 0.1
